"""Keys that are written in other letters than the model's names: `MODEL.BN.WEIGHT`, `attn.inProjBias`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

_JOINT = re.compile(r"_(?=[a-z])")


def recased(keys: Collection[str], names: Iterable[str]) -> dict[str, str]:
    """Return key -> the same with its segments as the model writes them, for those that differ in case and joints alone.

    What a tensor is to its layer is read from its last segment: a `BIAS` that isn't known as a bias may go anywhere of its
    size. Only segments with capital letters are read anew, and a joint before a number stays: `Dense_0` isn't `dense0`.
    """
    together = "\n".join(keys)
    if together == together.lower():
        return {}
    foreign = {segment for segment in _segments(keys) if segment != segment.lower()}
    ours = _segments(names)
    written: dict[str, list[str]] = {}
    for segment in ours:
        written.setdefault(_folded(segment), []).append(segment)
    meant = {segment: written.get(_folded(segment), []) for segment in foreign - ours}
    spelled = {segment: found[0] for segment, found in meant.items() if len(found) == 1}
    if not spelled:
        return {}
    read = {key: ".".join(spelled.get(segment, segment) for segment in key.split(".")) for key in keys}
    taken = Counter(read.values())
    return {key: name for key, name in read.items() if name != key and taken[name] == 1}


def _segments(names: Iterable[str]) -> set[str]:
    return {segment for name in names for segment in name.split(".")}


def _folded(segment: str) -> str:
    return _JOINT.sub("", segment.lower())
