"""Both sides cut to the finest grain: parametrized weights as one weight, fused projections as their parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.core.match import Leaf, Part
from torchgraft.core.names import words
from torchgraft.matching.dialect import CONTESTED_FUSED, FUSED
from torchgraft.matching.forms import Form, find_forms
from torchgraft.matching.words import canonical

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from torchgraft.core.specs import Slot, TensorSpec

_SINGLE = frozenset({"q", "k", "v", "o"})


def source_leaves(specs: Mapping[str, TensorSpec]) -> tuple[list[Leaf], dict[str, str]]:
    """Return the leaves of a checkpoint (not yet cut into parts) in file order, and its derived keys."""
    forms, derived = find_forms(specs)
    leaves: list[Leaf] = []
    for order, (key, spec) in enumerate(specs.items()):
        form = forms.get(key)
        if form is None:
            if key not in derived:
                leaves.append(_plain(key, spec, order))
        elif form.keys[0] == key:
            leaves.append(_formed(form, order))
    return leaves, derived


def target_leaves(slots: Sequence[Slot]) -> list[Leaf]:
    """Return the leaves of a model in registration order; `keys` are slot names. Non-persistent buffers are left out."""
    held = [slot for slot in slots if slot.persistent]
    by_name = {slot.name: slot for slot in held}
    forms, _ = find_forms({name: slot.spec for name, slot in by_name.items()})
    leaves: list[Leaf] = []
    for slot in held:
        form = forms.get(slot.name)
        if form is not None and form.keys[0] != slot.name:
            continue
        leaf = _plain(slot.name, slot.spec, slot.order) if form is None else _formed(form, slot.order)
        turned = {"Linear": False, "NonDynamicallyQuantizableLinear": False, "Conv1D": True}.get(slot.kind)
        also = slot.aliases if form is None else ()
        leaves.append(replace(leaf, kind=slot.kind, is_buffer=slot.is_buffer, also=also, turned=turned))
    return leaves


def _plain(key: str, spec: TensorSpec, order: int) -> Leaf:
    return Leaf(name=_unfold(key), shape=spec.shape, dtype=spec.dtype, keys=(key,), order=order)


def _formed(form: Form, order: int) -> Leaf:
    return Leaf(
        name=_unfold(form.name), shape=form.shape, dtype=form.dtype, keys=form.keys, form=form.kind, order=order
    )


def _unfold(key: str) -> str:
    """Give `attn.in_proj_weight` and `attn.q_bias` the form of their module spelling: `attn.in_proj.weight`."""
    owner, dot, role = key.rpartition(".")
    for end in ("_weight", "_bias"):
        if role.endswith(end):
            stem = role[: -len(end)]
            if words(stem) in FUSED or canonical(stem) in {(w,) for w in _SINGLE}:
                return f"{owner}{dot}{stem}.{end[1:]}"
    return key


def cut(leaves: Sequence[Leaf], whole: Container[str] = ()) -> list[Leaf]:
    """Return the leaves with fused projections cut into parts; those named in `whole`, and unclear ones, stay whole."""
    rows_of_q = _query_rows(leaves)
    out: list[Leaf] = []
    for leaf in leaves:
        out.extend((_parts(leaf, rows_of_q) if leaf.name not in whole else None) or [leaf])
    return out


def _fused_labels(leaf: Leaf) -> tuple[str, ...] | None:
    if leaf.role not in ("weight", "bias") or leaf.form != "plain":
        return None
    spelled = words(leaf.owner.rpartition(".")[2])
    for size in (3, 2, 1):
        labels = FUSED.get(spelled[-size:])
        if labels is not None and len(spelled) == size:
            return labels
    return None


def _query_rows(leaves: Sequence[Leaf]) -> dict[str, int]:
    """Width that the output projection of each attention module takes: the number of query rows, also when grouped."""
    found: dict[str, int] = {}
    for leaf in leaves:
        if leaf.role == "weight" and len(leaf.shape) == 2 and canonical(leaf.name)[-2:] == ("o", "weight"):
            found[leaf.owner.rpartition(".")[0]] = leaf.shape[1]
    return found


def _parts(leaf: Leaf, rows_of_q: Mapping[str, int]) -> list[Leaf] | None:
    labels = _fused_labels(leaf)
    if labels is None or not leaf.shape:
        return None
    count = len(labels)
    dim = 1 if len(leaf.shape) == 2 and leaf.shape[1] == count * leaf.shape[0] else 0
    total = leaf.shape[dim]
    parent = leaf.owner.rpartition(".")[0]
    sizes = _sizes(labels, total, rows_of_q.get(parent) if dim == 0 else None)
    if sizes is None:
        return None
    out: list[Leaf] = []
    at, contested = 0, words(leaf.owner.rpartition(".")[2]) in CONTESTED_FUSED
    turned = leaf.turned
    if len(leaf.shape) == 2 and count * min(leaf.shape) == max(leaf.shape):
        turned = dim == 1
    for label, size in zip(labels, sizes, strict=True):
        shape = (*leaf.shape[:dim], size, *leaf.shape[dim + 1 :])
        part = Part(label, dim, at, at + size, total, contested)
        name = f"{parent}.{label}.{leaf.role}" if parent else f"{label}.{leaf.role}"
        out.append(replace(leaf, name=name, shape=shape, part=part, also=(), turned=turned))
        at += size
    return out


def _sizes(labels: tuple[str, ...], total: int, query: int | None) -> tuple[int, ...] | None:
    count = len(labels)
    if count == 3 and query and query != total // 3 and query < total and (total - query) % 2 == 0:
        rest = (total - query) // 2
        return (query, rest, rest) if query % rest == 0 else None
    return (total // count,) * count if total % count == 0 else None
