"""Both sides cut to the finest grain: parametrized weights as one weight, fused projections as their parts."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.core.match import Leaf, Part, Rotary
from torchgraft.core.names import words
from torchgraft.core.specs import Shape, Slot, TensorSpec
from torchgraft.core.system.objects import maker
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.forms import Form, any_raw, find_forms
from torchgraft.matching.parts.kernels import as_matrices
from torchgraft.matching.tables.packing import FUSED, Packing, any_named_fused, owners_of
from torchgraft.matching.tables.stated import NOTHING, Stated

if TYPE_CHECKING:
    Heads = Callable[[str], int | None]

_make = maker(Leaf)
_SINGLE = frozenset({"q", "k", "v", "o"})


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

    Non-persistent buffers are left out, and copies that code makes of another slot: see `copy_leaves`.
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
                turned=TURNED.get(slot.kind) if len(seen.shape) < 3 else None,
                kind=slot.kind,
                is_buffer=slot.is_buffer,
            )
        )
    return leaves


def copy_leaves(slots: Sequence[Slot]) -> dict[str, tuple[Leaf, ...]]:
    """Return the leaves of slots that the model's code fills from another one, by that one's name.

    Weight drop (AWD-LSTM, fastai) keeps `weight_hh_l0_raw`, and puts it, with some of it dropped, into `weight_hh_l0`.
    """
    held = {slot.name: slot for slot in slots if slot.persistent and slot.name}
    _, copies = find_forms({name: slot.spec for name, slot in held.items()}) if any_raw(held) else ({}, {})
    found: dict[str, tuple[Leaf, ...]] = {}
    for copy, raw in copies.items():
        slot = held[copy]
        leaf = _make(
            name=copy, shape=slot.spec.shape, dtype=slot.spec.dtype, keys=(copy,), order=slot.order, kind=slot.kind
        )
        found[raw] = (*found.get(raw, ()), leaf)
    return found


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
        path = (
            path.rpartition(".")[0] if own == leaf.owner else path
        )  # `attn.in_proj_weight` lies in the attention itself
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


def unfolded(key: str) -> str:
    """Give `attn.in_proj_weight` and `attn.q_bias` the form of their module spelling: `attn.in_proj.weight`."""
    if not key.endswith(("_weight", "_bias")):
        return key
    owner, dot, role = key.rpartition(".")
    for end in ("_weight", "_bias"):
        if role.endswith(end):
            stem = role[: -len(end)]
            if words(stem) in FUSED or canonical(stem) in {(w,) for w in _SINGLE}:
                return f"{owner}{dot}{stem}.{end[1:]}"
    return key


def cut(
    leaves: Sequence[Leaf], whole: Container[str] = (), heads: Heads | None = None, stated: Stated = NOTHING
) -> list[Leaf]:
    """Return the leaves with fused projections cut into parts; those named in `whole`, and unclear ones, stay whole.

    `heads` tells how many query heads the module at a path has, if that is known; what is `stated` comes before it.
    """
    if not stated.layouts and not any_named_fused(leaves):
        return list(leaves)
    owners = owners_of(leaves)
    packings = [None if leaf.name in whole else stated.of(leaf, owners) for leaf in leaves]
    rows_of_q = _query_rows(leaves) if any(packings) else {}
    widths = _widths(leaves) if any(packings) else {}
    out: list[Leaf] = []
    for leaf, packing in zip(leaves, packings, strict=True):
        count = stated.heads or (heads(leaf.owner) if heads and packing else None)
        out.extend((packing and _parts(leaf, packing, (rows_of_q, widths), count)) or [leaf])
    return out


def _query_rows(leaves: Sequence[Leaf]) -> dict[str, int]:
    """Width that the output projection of each attention module takes: the number of query rows, also when grouped."""
    found: dict[str, int] = {}
    for leaf in leaves:
        if leaf.role == "weight" and len(leaf.shape) == 2 and canonical(leaf.name)[-2:] == ("o", "weight"):
            found[leaf.owner.rpartition(".")[0]] = leaf.shape[1]
    return found


def _widths(leaves: Sequence[Leaf]) -> dict[str, dict[str, Shape]]:
    """Return the shapes of the matrices in each module, by their names."""
    found: dict[str, dict[str, Shape]] = {}
    for leaf in leaves:
        if leaf.role == "weight" and len(leaf.shape) == 2:
            found.setdefault(leaf.owner.rpartition(".")[0], {})[leaf.name] = leaf.shape
    return found


def _parts(
    leaf: Leaf, packing: Packing, beside: tuple[Mapping[str, int], Mapping[str, Mapping[str, Shape]]], heads: int | None
) -> list[Leaf] | None:
    count = len(packing.parts)
    parent = leaf.owner.rpartition(".")[0]
    rows_of_q, widths = beside
    others = [shape for name, shape in widths.get(parent, {}).items() if name != leaf.name]
    dim = int(_is_turned(leaf, count, others))
    total = leaf.shape[dim]
    sizes = _sizes(count, total, rows_of_q.get(parent) if dim == 0 else None)
    grouping = _grouping(packing, sizes, heads) if sizes else None
    if sizes and grouping is None and packing.open:
        grouping = (1, ())  # no more than a guess either way, and the one that needs no number of heads
    if sizes is None or grouping is None:
        return None
    one_group = _grouping(replace(packing, groups="heads"), sizes, heads) == (1, ())
    same = packing.contested == "groups" and one_group
    plain = replace(packing, contested="", open=False) if same else packing
    return parts_of(leaf, plain, sizes, dim, grouping, guessed=plain.open)


def _is_turned(leaf: Leaf, count: int, others: Sequence[Shape]) -> bool:
    """Whether parts lie side by side: `count` times as many columns as rows, which are as many as the model is wide."""
    if len(leaf.shape) != 2 or leaf.shape[1] != count * leaf.shape[0]:
        return False
    return leaf.turned is not False and (not others or any(leaf.shape[0] in shape for shape in others))


def parts_of(
    leaf: Leaf,
    packing: Packing,
    sizes: tuple[int, ...],
    dim: int,
    grouping: tuple[int, tuple[int, ...]] = (1, ()),
    *,
    guessed: bool = False,
) -> list[Leaf]:
    """Return the parts of a fused leaf, `sizes` rows each along `dim`; `grouping` as in `Part`."""
    parent = leaf.owner.rpartition(".")[0]
    out: list[Leaf] = []
    at, turned, total = 0, leaf.turned, leaf.shape[dim]
    if len(leaf.shape) == 2 and len(sizes) * min(leaf.shape) == max(leaf.shape):
        turned = dim == 1
    for label, size in zip(packing.parts, sizes, strict=True):
        rotary = _rotary_of(leaf, label, size, dict(zip(packing.parts, sizes, strict=True)).get("q", size))
        shape = (*leaf.shape[:dim], size, *leaf.shape[dim + 1 :])
        part = Part(
            label,
            dim,
            at,
            at + size,
            total,
            contested=bool(packing.contested),
            guessed=guessed,
            groups=grouping[0],
            sizes=grouping[1],
            convention=packing.source,
        )
        name = f"{parent}.{label}.{leaf.role}" if parent else f"{label}.{leaf.role}"
        out.append(replace(leaf, name=name, shape=shape, part=part, also=(), turned=turned, rotary=rotary))
        at += size
    return out


def _rotary_of(leaf: Leaf, label: str, size: int, query: int) -> Rotary | None:
    """Return how the rows of a part pair up: queries and keys alone do, and there may be fewer key heads."""
    if leaf.rotary is None or label not in ("q", "k"):
        return None
    heads = leaf.rotary.heads * size
    return replace(leaf.rotary, heads=heads // query if heads % query == 0 else 0, fused=False)


def _grouping(packing: Packing, sizes: tuple[int, ...], heads: int | None) -> tuple[int, tuple[int, ...]] | None:
    """Return how often the parts follow each other, and their relative sizes; None where the heads aren't known.

    With grouped queries there are as many groups as key heads, each with its share of the query heads.
    """
    if packing.groups == 1:
        return 1, ()
    if packing.groups == "rows":
        return (sizes[0], (1,) * len(sizes)) if len(set(sizes)) == 1 else None
    if isinstance(packing.groups, int):
        return (packing.groups, (1,) * len(sizes)) if sizes[0] % packing.groups == 0 else None
    if not heads or sizes[0] % heads or (heads * sizes[-1]) % sizes[0]:
        return None
    groups = heads * sizes[-1] // sizes[0]
    if groups == 0 or heads % groups:
        return None
    return (groups, (heads // groups, *(1,) * (len(sizes) - 1))) if groups > 1 else (1, ())


def _sizes(count: int, total: int, query: int | None) -> tuple[int, ...] | None:
    if count == 3 and query and query != total // 3 and query < total and (total - query) % 2 == 0:
        rest = (total - query) // 2
        return (query, rest, rest) if query % rest == 0 else None
    return (total // count,) * count if total % count == 0 else None
