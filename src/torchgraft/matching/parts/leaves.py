"""The tensors of both sides as leaves: parametrized weights as the one weight that they stand for, kernels as matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.core.specs import Shape, Slot, TensorSpec
from torchgraft.core.system.fast_objects import maker
from torchgraft.matching.names.spelling import unfolded
from torchgraft.matching.parts.forms import Form, as_matrices, find_forms
from torchgraft.matching.tables.packing import FUSED

_make = maker(Leaf)
# Whether a module of this class stores its matrix [in, out] (True) or [out, in].
TURNED = {"Linear": False, "NonDynamicallyQuantizableLinear": False, "Conv1D": True}


def source_leaves(
    specs: Mapping[str, TensorSpec], kinds: Mapping[str, str] | None = None, held: Mapping[str, Shape] | None = None
) -> tuple[list[Leaf], dict[str, str]]:
    """Return the leaves of a checkpoint (not yet cut into parts) in file order, and its derived keys.

    `kinds` are the class names of the modules that the source consists of, where they are known. What the model has under
    the same name, with the shape that is `held` there, is taken as it is.
    """
    forms, derived = find_forms(specs)
    held = held or {}
    matrices = {key: shape for key, shape in as_matrices(specs).items() if specs[key].shape != held.get(key)}
    leaves: list[Leaf] = []
    for order, (key, spec) in enumerate(specs.items()):
        form = forms.get(key)
        if form is None:
            if key not in derived:
                leaf = _plain(key, spec, order)
                kind = (kinds or {}).get(key.rpartition(".")[0], "")
                leaf = replace(leaf, kind=kind, turned=TURNED.get(kind)) if kind else leaf
                leaves.append(_as_matrix(leaf, matrices[key]) if key in matrices else leaf)
        elif form.keys[0] == key:
            leaves.append(_formed(form, order))
    return leaves, derived


def target_leaves(slots: Sequence[Slot]) -> list[Leaf]:
    """Return the leaves of a model in registration order; `keys` are slot names.

    Non-persistent buffers are left out, and copies that code makes of another slot: see `with_copies`.
    """
    held = [slot for slot in slots if slot.persistent]
    by_name = {slot.name: slot for slot in held}
    forms, copies = find_forms({name: slot.spec for name, slot in by_name.items()})
    leaves: list[Leaf] = []
    for slot in held:
        if slot.name in copies:
            continue
        form = forms.get(slot.name)
        if form is not None and form.keys[0] != slot.name:
            continue
        seen = form or slot.spec
        leaves.append(
            _make(
                name=unfolded(seen.name),
                shape=seen.shape,
                dtype=seen.dtype,
                keys=form.keys if form else (slot.name,),
                form=form.kind if form else "plain",
                order=slot.order,
                also=() if form else slot.aliases,
                turned=_is_turned(slot) if len(seen.shape) < 3 else None,
                kind=slot.kind,
                is_buffer=slot.is_buffer,
            )
        )
    return leaves


def _is_turned(slot: Slot) -> bool | None:
    return False if slot.is_linear else TURNED.get(slot.kind)


def with_classes(leaves: Sequence[Leaf], classes: Mapping[str, str], keys: Mapping[str, str]) -> list[Leaf]:
    """Return the leaves, those whose name may be a fused one with the classes around them.

    `classes` are the class names of modules by path, `keys` the names that the leaves' own `keys` have there.
    """
    fused = {leaf.name for leaf in leaves if words(leaf.owner.rpartition(".")[2]) in FUSED} if classes else set()
    if not fused:
        return list(leaves)
    inside: dict[str, list[str]] = {}
    for path, kind in classes.items():
        inside.setdefault(path.rpartition(".")[0], []).append(kind)

    def told(leaf: Leaf) -> Leaf:
        own = leaf.keys[0].rpartition(".")[0]
        path = keys.get(leaf.keys[0], leaf.keys[0]).rpartition(".")[0]
        if own == leaf.owner:  # `attn.in_proj_weight` lies in the attention itself
            path = path.rpartition(".")[0]
        return replace(leaf, around=(classes[path], *inside.get(path, ()))) if path in classes else leaf

    return [told(leaf) if leaf.name in fused else leaf for leaf in leaves]


def as_stored(leaf: Leaf, keys: Mapping[str, str]) -> str:
    """Return the path of the layer of a leaf by the name that it has in the file: `keys` maps names to those."""
    key = leaf.keys[0]
    return leaf.owner if keys.get(key, key) == key else unfolded(keys[key]).rpartition(".")[0]


def _plain(key: str, spec: TensorSpec, order: int) -> Leaf:
    return _make(name=unfolded(key), shape=spec.shape, dtype=spec.dtype, keys=(key,), order=order)


def _as_matrix(leaf: Leaf, shape: Shape) -> Leaf:
    """Return the leaf of a kernel with more axes as a matrix [in, out], or that of its bias as a vector."""
    return replace(leaf, shape=shape, turned=True if len(shape) > 1 else leaf.turned)


def _formed(form: Form, order: int) -> Leaf:
    return Leaf(
        name=unfolded(form.name), shape=form.shape, dtype=form.dtype, keys=form.keys, form=form.kind, order=order
    )
