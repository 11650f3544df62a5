"""Tensor-parallel ranks seen as one network: per tensor, joined along the axis that the model's shape shows.

Kinds as in Megatron-LM's layers: replicated, column-parallel (rows are split), row-parallel (columns are split), and
fused rows of which every rank holds its share of each part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.match import Ranks, Shares
from torchgraft.core.names import covers, words
from torchgraft.core.specs import Network, Shape, Slot
from torchgraft.matching.names.prefixes import by_name
from torchgraft.matching.parts.leaves import source_leaves, target_leaves
from torchgraft.matching.tables.packing import FUSED

RANK = re.compile(r"(?:.*/)?rank_?(\d+)")


def join_ranks(networks: Sequence[Network], slots: Sequence[Slot], stated: Mapping[str, str]) -> Ranks | None:
    """Return the ranks of a tensor-parallel checkpoint as one network, or None when the file is none.

    `stated` maps patterns of keys to kinds: "replicated", "rows", "columns", or "qkv" (and other fused names) for parts.

    Raises:
        UsageError: something is stated of a file without ranks, or of tensors that they don't have.
    """
    ranks = [n for n in networks if RANK.fullmatch(n.path) and n.role == "model"]
    if len(ranks) < 2 or any(list(n.specs) != list(ranks[0].specs) for n in ranks[1:]):
        if stated:
            raise UsageError("tensor_parallel= says how tensors are shared out to ranks: the checkpoint has no ranks")
        return None
    for pattern in stated:
        if not any(covers(pattern, key) for key in ranks[0].specs):
            raise UsageError(f"tensor_parallel: no tensor of the file is called {printable(pattern)!r}")
    ranks.sort(key=lambda n: int(RANK.fullmatch(n.path)[1]))  # type: ignore[index]  # they all match
    sources, _ = source_leaves(ranks[0].specs)
    named = by_name(sources, target_leaves(slots)).pairs
    by_slot = {slot.name: slot for slot in slots}
    specs, shares = {}, {}
    for key, spec in ranks[0].specs.items():
        wanted = by_slot.get(named.get(key, ""))
        share = _shares(key, spec.shape, wanted.spec.shape if wanted else None, len(ranks), stated)
        shares[key] = share
        specs[key] = replace(spec, shape=_whole(spec.shape, share.kind, len(ranks)))
    joined = Network(ranks[0].path, specs, "model", ranks[0].shared)
    return Ranks(tuple(n.path for n in ranks), joined, shares)


def _shares(key: str, share: Shape, wanted: Shape | None, count: int, stated: Mapping[str, str]) -> Shares:
    parts = _parts(words(key.split(".")[-2]) if "." in key else ())
    for pattern, kind in stated.items():
        if covers(pattern, key):
            return _stated(key, kind)
    if wanted is None or wanted == share:
        return Shares("replicated")
    for axis, kind in ((0, "rows"), (1, "columns")):
        grown = _whole(share, kind, count) if len(share) > axis else ()
        if grown == wanted:
            return Shares("parts", (1,) * len(parts)) if parts and kind == "rows" else Shares(kind)
    return Shares("replicated")


def _stated(key: str, kind: str) -> Shares:
    if kind in ("replicated", "rows", "columns"):
        return Shares(kind, stated=True)
    parts = _parts((kind,))
    if not parts:
        raise UsageError(f"tensor_parallel[{key!r}]={kind!r}: use replicated, rows, columns, qkv or kv")
    return Shares("parts", (1,) * len(parts), stated=True)


def _parts(spelled: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of fused tensors of that name, () where it means none or rows go head by head."""
    known = FUSED.get(spelled)
    return known[-1].parts if known and known[-1].groups == 1 else ()


def _whole(share: Shape, kind: str, count: int) -> Shape:
    if kind == "replicated":
        return share
    axis = 1 if kind == "columns" else 0
    return (*share[:axis], share[axis] * count, *share[axis + 1 :])
