"""What the model's code, or the caller, makes a copy of another of its tensors: filled like that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import shared_start
from torchgraft.core.specs import Shape, Slot
from torchgraft.matching.names.said import TRAINED
from torchgraft.matching.parts.forms import any_raw, find_forms


def with_copies(matching: Matching, slots: Sequence[Slot], is_reserved: Callable[[Leaf], bool]) -> Matching:
    """Return the matching with each copy fed from the file's own copy, or else from what feeds the slot it is a copy of.

    The model would make it anew on its first pass; until then it would hold values of nobody. `is_reserved`: the caller
    wants something else for it.
    """
    copies = _copies(slots)
    if not copies:
        return matching
    wanted = {raw: [leaf for leaf in leaves if not is_reserved(leaf)] for raw, leaves in copies.items()}
    found = {m.target.keys[0]: m for m in matching.matches if m.target.keys[0] in wanted}
    new = tuple(
        Match(
            target=leaf,
            source=_own_copy(leaf, m.source, matching.derived),
            why=replace(m.why, text=f"{m.why.text}; a copy of {raw} that the model makes anew"),
            certainty=m.certainty,
            alternatives=m.alternatives,
        )
        for raw, m in found.items()
        for leaf in wanted[raw]
    )
    free = tuple(leaf for raw, leaves in wanted.items() if raw not in found for leaf in leaves)
    return replace(matching, matches=(*matching.matches, *new), free_targets=(*matching.free_targets, *free))


def with_stated_copies(matching: Matching, copied: Mapping[str, str], slots: Sequence[Slot]) -> Matching:
    """Return the matching with what the caller, or PEFT, calls a copy of another slot fed from what feeds that one.

    `copied` has the name of the other slot by that of the copy, which stays free where nothing feeds it.
    """
    copies: dict[str, list[str]] = {}
    for copy, name in copied.items():
        copies.setdefault(name, []).append(copy)
    shapes = {name: slot.spec.shape for slot in slots for name in slot.names}
    new = [
        replace(
            m, target=leaf, why=replace(m.why, text=f"{m.why.text}; starts as a copy of {m.target.name}, {_said(leaf)}")
        )
        for m in matching.matches
        for keys in zip(*(copies.get(key, ()) for key in m.target.keys), strict=False)
        if (leaf := _as_copy(m.target, keys, shapes))
    ]
    return replace(matching, matches=(*matching.matches, *new))


def _said(copy: Leaf) -> str:
    return "in whose place it is trained" if TRAINED.fullmatch(copy.keys[0]) else "as you said"


def _as_copy(leaf: Leaf, keys: tuple[str, ...], shapes: Mapping[str, Shape]) -> Leaf | None:
    """Return the leaf that stands under those keys as another does under its own; None where a part would be of another size."""
    ours, theirs = leaf.keys[0], keys[0]
    shape = leaf.shape if shapes[ours] == shapes[theirs] else None if leaf.part or len(keys) > 1 else shapes[theirs]
    if shape is None:
        return None
    end = shared_start(ours[::-1], theirs[::-1])
    name = theirs[: len(theirs) - end] + leaf.name.removeprefix(ours[: len(ours) - end])
    return replace(leaf, name=name, keys=keys, shape=shape, also=())


def _copies(slots: Sequence[Slot]) -> dict[str, tuple[Leaf, ...]]:
    """Return the leaves of slots that the model's code fills from another one, by that one's name.

    Weight drop (AWD-LSTM, fastai) keeps `weight_hh_l0_raw`, and puts it, with some of it dropped, into `weight_hh_l0`.
    """
    held = {slot.name: slot for slot in slots if slot.persistent and slot.name}
    _, copies = find_forms({name: slot.spec for name, slot in held.items()}) if any_raw(held) else ({}, {})
    found: dict[str, tuple[Leaf, ...]] = {}
    for copy, raw in copies.items():
        slot = held[copy]
        leaf = Leaf(
            name=copy, shape=slot.spec.shape, dtype=slot.spec.dtype, keys=(copy,), order=slot.order, kind=slot.kind
        )
        found[raw] = (*found.get(raw, ()), leaf)
    return found


def _own_copy(copy: Leaf, raw: Leaf, derived: Mapping[str, str]) -> Leaf:
    """Return the file's copy of `raw` that stands where the model's does, or `raw` if it has none there."""
    beside = [
        key for key, origin in derived.items() if origin == raw.keys[0] and _is_inside(key) == _is_inside(copy.name)
    ]
    return replace(raw, name=beside[0], keys=(beside[0],)) if len(beside) == 1 else raw


def _is_inside(name: str) -> bool:
    """Whether a copy lies in the module that is wrapped, not in the wrapper."""
    return name.split(".")[-2:-1] == ["module"]
