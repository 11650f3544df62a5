"""Fused projections cut into their parts, as their names say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace

from torchgraft.core.match import Leaf, Part, Rotary
from torchgraft.core.specs import Shape
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.apart import parts_apart
from torchgraft.matching.tables.dialect import BACK
from torchgraft.matching.tables.packing import Packing, any_named_fused, owners_of
from torchgraft.matching.tables.rotary import ROTATED
from torchgraft.matching.tables.stated import NOTHING, Stated

Heads = Callable[[str], int | None]
WAYS_BACK = [("o",), *((name,) for name in BACK)]


def cut(
    leaves: Sequence[Leaf],
    whole: Container[str] = (),
    heads: Heads | None = None,
    stated: Stated = NOTHING,
    others: Sequence[Leaf] = (),
) -> list[Leaf]:
    """Return the leaves with fused projections cut into parts; those named in `whole`, and unclear ones, stay whole.

    `heads` tells how many query heads the module at a path has, if that is known; what is `stated` comes before it. `others`
    are the leaves of the other side, which may have the parts apart.
    """
    if not stated.layouts and not any_named_fused(leaves):
        return list(leaves)
    owners = owners_of(leaves)
    packings = [None if leaf.name in whole else stated.of(leaf, owners) for leaf in leaves]
    rows_of_q = _query_rows(leaves) if any(packings) else {}
    widths = _widths(leaves) if any(packings) else {}
    apart = {one.rows for one in parts_apart(others)} if any(packings) else set()
    out: list[list[Leaf]] = []
    for leaf, packing in zip(leaves, packings, strict=True):
        path = owners.layer_at(leaf.owner)
        count = stated.heads or (heads(path) if heads and packing else None)
        out.append((packing and _parts(leaf, path, packing, (rows_of_q, widths, apart), count)) or [leaf])
    return with_names_apart(leaves, out)


def with_names_apart(leaves: Sequence[Leaf], cut_up: Sequence[Sequence[Leaf]]) -> list[Leaf]:
    """Return what leaves were cut into; where two would have parts of one name, as `qkv` and `qkv_b`, these lie in their own layers."""
    out = [part for parts in cut_up for part in parts]
    if len(out) == len(leaves):
        return out
    count = Counter([part.name for part in out])
    if len(count) == len(out):
        return out
    shared = {
        leaf.owner for leaf, parts in zip(leaves, cut_up, strict=True) if any(count[one.name] > 1 for one in parts)
    }
    return [
        replace(part, name=f"{leaf.owner}.{part.part.label}.{part.role}")
        if part.part and leaf.owner in shared
        else part
        for leaf, parts in zip(leaves, cut_up, strict=True)
        for part in parts
    ]


def _query_rows(leaves: Sequence[Leaf]) -> dict[str, int]:
    """Width that the output projection of each attention module takes: the number of query rows, also when grouped."""
    found: dict[str, int] = {}
    for leaf in leaves:
        path = leaf.owner.rstrip(".0123456789")  # `to_out.0` lies in the attention as `to_out` does
        if leaf.role == "weight" and len(leaf.shape) == 2 and canonical(path)[-1:] in WAYS_BACK:
            found[path.rpartition(".")[0]] = leaf.shape[1]
    return found


def _widths(leaves: Sequence[Leaf]) -> dict[str, dict[str, Shape]]:
    """Return the shapes of the matrices in each module, by their names."""
    found: dict[str, dict[str, Shape]] = {}
    for leaf in leaves:
        if leaf.role == "weight" and len(leaf.shape) == 2:
            found.setdefault(leaf.owner.rpartition(".")[0], {})[leaf.name] = leaf.shape
    return found


def _parts(
    leaf: Leaf,
    path: str,
    packing: Packing,
    beside: tuple[Mapping[str, int], Mapping[str, Mapping[str, Shape]], Container[Shape]],
    heads: int | None,
) -> list[Leaf] | None:
    count = len(packing.parts)
    parent = path.rpartition(".")[0]
    rows_of_q, widths, apart = beside
    others = [shape for name, shape in widths.get(parent, {}).items() if name != leaf.name]
    dim = int(_is_turned(leaf, count, others))
    total = leaf.shape[dim]
    sizes = _sizes(count, total, rows_of_q.get(parent) if dim == 0 else None)
    if sizes and sizes not in apart and sizes[::-1] in apart:
        sizes = sizes[
            ::-1
        ]  # not fewer keys and values than queries, but values that are wider: both go through the way back
    grouping = _grouping(packing, sizes, heads) if sizes else None
    if sizes and grouping is None and packing.open:
        grouping = (1, ())  # no more than a guess either way, and the one that needs no number of heads
    if sizes is None or grouping is None:
        return None
    one_group = _grouping(replace(packing, groups="heads"), sizes, heads) == (1, ())
    same = packing.contested == "groups" and one_group
    plain = replace(packing, contested="", open=False) if same else packing
    return parts_of(leaf, parent, plain, sizes, dim, grouping)


def _is_turned(leaf: Leaf, count: int, others: Sequence[Shape]) -> bool:
    """Whether parts lie side by side: `count` times as many columns as rows, which are as many as the model is wide."""
    if len(leaf.shape) != 2 or leaf.shape[1] != count * leaf.shape[0]:
        return False
    return leaf.turned is not False and (not others or any(leaf.shape[0] in shape for shape in others))


def parts_of(
    leaf: Leaf,
    parent: str,
    packing: Packing,
    sizes: tuple[int, ...],
    dim: int,
    grouping: tuple[int, tuple[int, ...]] = (1, ()),
) -> list[Leaf]:
    """Return the parts of a fused leaf as layers of the module `parent`, `sizes` rows each along `dim`.

    `grouping` as in `Part`.
    """
    out: list[Leaf] = []
    rows = dict(zip(packing.parts, sizes, strict=True))
    at, turned, total = 0, leaf.turned, leaf.shape[dim]
    if len(leaf.shape) == 2 and len(sizes) * min(leaf.shape) == max(leaf.shape):
        turned = dim == 1
    for label, size in rows.items():
        rotary = _rotary_of(leaf, label, size, rows.get("q", size))
        shape = (*leaf.shape[:dim], size, *leaf.shape[dim + 1 :])
        part = Part(
            label, dim, at, at + size, total, contested=bool(packing.contested), guessed=packing.open or not packing.source,
            groups=grouping[0], sizes=grouping[1], convention=packing.source,
        )  # fmt: skip
        name = f"{parent}.{label}.{leaf.role}" if parent else f"{label}.{leaf.role}"
        out.append(replace(leaf, name=name, shape=shape, part=part, also=(), turned=turned, rotary=rotary))
        at += size
    return out


def _rotary_of(leaf: Leaf, label: str, size: int, query: int) -> Rotary | None:
    """Return how the rows of a part pair up: queries and keys alone do, and there may be fewer key heads."""
    if leaf.rotary is None or label not in ROTATED:
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
    if heads % groups:
        return None
    return (groups, (heads // groups, *(1,) * (len(sizes) - 1))) if groups > 1 else (1, ())


def _sizes(count: int, total: int, query: int | None) -> tuple[int, ...] | None:
    if count == 3 and query and query != total // 3 and query < total and (total - query) % 2 == 0:
        rest = (total - query) // 2
        return (query, rest, rest) if query % rest == 0 else None
    return (total // count,) * count if total % count == 0 else None
