"""Tensor-parallel ranks seen as one network: per tensor, joined along the axis that the model's shape shows.

Kinds as in Megatron-LM's layers: replicated, column-parallel (rows are split), row-parallel (columns are split), and
fused rows of which every rank holds its share of each part.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.match import Ranks, Shares
from torchgraft.core.names import covers, words
from torchgraft.core.specs import Network, Shape, Slot, TensorSpec
from torchgraft.matching.names.prefixes import naming_of
from torchgraft.matching.names.rules import Rules
from torchgraft.matching.parts.leaves import source_leaves, target_leaves
from torchgraft.matching.tables.packing import FUSED, GATE_UP, KV, Owners, owners_of, packing_of

# Of which layers of Megatron-LM ranks hold what of the weight, which torch keeps as [out, in].
_LAYERS: dict[tuple[str, ...], tuple[str, str]] = {
    ("column",): ("column", "rows"),
    ("row",): ("row", "columns"),
    ("vocab",): ("vocabulary", "rows"),
}
RANK = re.compile(r"(?:.*/)?rank_?(\d+)")


def join_ranks(
    networks: Sequence[Network], slots: Sequence[Slot], stated: Mapping[str, str], rules: Rules | None = None
) -> Ranks | None:
    """Return the ranks of a tensor-parallel checkpoint as one network, or None when the file is none.

    `stated` maps patterns of keys to kinds: "replicated", "rows", "columns", or for parts "qkv", "kv" or "gate_up". `rules`
    are the caller's for names.

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
    told = _Told(len(ranks), stated, owners_of(source_leaves(ranks[0].specs)[0]), _gated(slots))
    wanted = _wanted(ranks[0].specs, slots, rules or Rules())
    specs, shares = {}, {}
    for key, spec in ranks[0].specs.items():
        share = _shares(key, spec.shape, wanted.get(key), told)
        shares[key] = share
        specs[key] = replace(spec, shape=_whole(spec.shape, share.kind, len(ranks)))
    joined = Network(ranks[0].path, specs, "model", ranks[0].shared)
    return Ranks(tuple(n.path for n in ranks), joined, shares)


def _wanted(specs: Mapping[str, TensorSpec], slots: Sequence[Slot], rules: Rules) -> dict[str, Slot]:
    """Return the slot that a key of the ranks is called as, by the caller's rules and but for prefixes."""
    shown = rules.present(specs)
    sources, _ = source_leaves({name: replace(specs[key], name=name) for name, key in shown})
    named = naming_of(sources, target_leaves(slots)).pairs
    by_slot = {slot.name: slot for slot in slots}
    return {key: slot for name, key in shown if (slot := by_slot.get(named.get(name, "")))}


def _gated(slots: Sequence[Slot]) -> set[str]:
    """Return the modules of the model that make twice the columns which the one behind them takes: gate and up in one."""
    inside: dict[str, dict[str, Shape]] = defaultdict(dict)
    for slot in slots:
        module, _, role = slot.name.rpartition(".")
        if role == "weight" and len(slot.spec.shape) == 2:
            inside[module.rpartition(".")[0]][module] = slot.spec.shape
    return {
        module
        for layers in inside.values()
        for module, (rows, columns) in layers.items()
        if (columns, rows // 2) in layers.values() and all(other[1] != rows for other in layers.values())
    }


@dataclass(frozen=True, slots=True)
class _Told:
    """What tells how ranks share tensors: their number, what the caller states, their modules, gated ones of the model."""

    count: int
    stated: Mapping[str, str]
    owners: Owners
    gated: Collection[str]


def _shares(key: str, share: Shape, wanted: Slot | None, told: _Told) -> Shares:
    for pattern, kind in told.stated.items():
        if covers(pattern, key):
            return _stated(key, kind)
    packing = packing_of(key.rpartition(".")[0], told.owners)
    whole = wanted.spec.shape if wanted else _whole(share, "rows", told.count) if packing else None
    if whole is None:
        return Shares("replicated", known=len(share) < 2)
    if whole == share:
        return Shares("replicated")
    for axis, kind in ((0, "rows"), (1, "columns")):
        grown = _whole(share, kind, told.count) if len(share) > axis else ()
        if grown != whole:
            continue
        if kind == "columns" or not (packing or (wanted and wanted.name.rpartition(".")[0] in told.gated)):
            return Shares(kind)
        if packing is None or packing.groups == 1:
            return _fused(packing.parts if packing else GATE_UP)
        return Shares(kind, usual=bool(packing.contested), word="qkv")
    return Shares("replicated")


def _fused(parts: tuple[str, ...], *, stated: bool = False) -> Shares:
    word = "gate_up" if parts == GATE_UP else "kv" if len(parts) == len(KV) else "qkv"
    return Shares("parts", (1,) * len(parts), stated, word=word)


def _stated(key: str, kind: str) -> Shares:
    if kind in ("replicated", "rows", "columns"):
        return Shares(kind, stated=True)
    if words(kind) not in FUSED:
        named = _LAYERS.get(words(kind)[:1], "")
        raise UsageError(
            f"tensor_parallel[{key!r}]={kind!r}: use replicated, rows, columns, qkv, kv or gate_up"
            + (f"; ranks of a {named[0]}-parallel layer hold {named[1]} of its weight" if named else "")
        )
    return _fused(FUSED[words(kind)][-1].parts, stated=True)


def _whole(share: Shape, kind: str, count: int) -> Shape:
    if kind == "replicated":
        return share
    axis = 1 if kind == "columns" else 0
    return (*share[:axis], share[axis] * count, *share[axis + 1 :])
