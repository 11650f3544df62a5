"""Sections of a state dict that a segment of its names stands for: averaged weights, or what the caller prefers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from torchgraft.core.names import EMA_SEGMENTS, ends
from torchgraft.core.specs import TensorSpec
from torchgraft.matching.names.lists import place_of

# A decay and a count of updates are no weights.
FEW_AVERAGED = 2


def in_part(key: str, prefer: str) -> bool:
    """Whether a key belongs to the part of a state dict that the caller prefers: a segment of it is so called, or several in a row.

    A key without dots belongs to it if it begins so, as those that mmcv's EMA hook writes: `ema_backbone_conv1_weight`.
    """
    parts = key.split(".")
    if len(parts) == 1 and key.startswith(prefer + "_"):
        return True
    if prefer == "ema":
        return bool(EMA_SEGMENTS & set(parts))
    said = prefer.strip(".")
    return f".{said}." in f".{key}."


def keep_part(keys: Iterable[str], prefer: str | None) -> tuple[list[str], list[str]]:
    """Return the keys of the preferred part, and those outside it. Without such a part all keys are kept."""
    keys = list(keys)
    if prefer is None:
        return keys, []
    inside = [key for key in keys if in_part(key, prefer)]
    return (inside, [key for key in keys if not in_part(key, prefer)]) if inside else (keys, [])


def without_averages(specs: Mapping[str, TensorSpec], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the keys of live weights, and those of averages of them: live ones come first, whatever the names are.

    Averages are in a part that is called so, live tensors have all of their shapes, and as many members of each list. A model
    with such a part itself takes them, and so does one for which the file holds nothing else.
    """
    together = "\n".join(specs)
    averaged = [key for key in specs if in_part(key, "ema")] if any(map(together.__contains__, EMA_SEGMENTS)) else []
    live = [key for key in specs if not in_part(key, "ema")] if averaged else []
    shapes = Counter(specs[key].shape for key in averaged if specs[key].shape)
    copied = len(averaged) > FEW_AVERAGED and shapes <= Counter(specs[key].shape for key in live)
    if not copied or any(in_part(name, "ema") for name in names) or _are_fewer(averaged, live):
        return list(specs), []
    return live, averaged


def _are_fewer(averaged: Iterable[str], live: Iterable[str]) -> bool:
    """Return whether the live part has more members of a list than what is called its averages: then these are of another network."""
    places = Counter(place_of(_within(key)) for key in averaged)
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for key in live:
        for end in ends(key):
            if (place := place_of(end)) in places:
                held[key.removesuffix(end)][place] += 1
    most = max(held.values(), key=Counter.total, default=Counter[str]())
    return any(most[place] > count for place, count in places.items())


def _within(key: str) -> str:
    """Return what comes behind the segment that says that a tensor is an average; the key itself without one."""
    return next((end for end in ends(key) if EMA_SEGMENTS.isdisjoint(end.split("."))), key)


def averaged_beside(keys: Iterable[str]) -> str:
    """Return that averaged weights are among the unused `keys`, "" where there are none."""
    found = [key for key in keys if in_part(key, "ema")]
    text = (
        f"averaged weights lie beside those that are used, and are not loaded ({len(found)} tensors): prefer='ema' takes "
        "them"
    )
    return text if len(found) > FEW_AVERAGED else ""
