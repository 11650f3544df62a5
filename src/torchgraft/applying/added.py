"""Which adapters this process added to which values, so that one that is added a second time is reported."""

from __future__ import annotations

from collections.abc import Sequence

# By name of a slot and checksum of its values: the checksums of the factors of each adapter that is part of them. Values that
# were loaded anew, or trained since, have another checksum.
_PARTS: dict[tuple[str, int], frozenset[tuple[int, ...]]] = {}
MOST = 100_000  # values that are remembered, some 30 MB: the oldest are forgotten


def holds(name: str, values: int, factors: Sequence[int]) -> bool:
    """Return whether an adapter is known to be part of the values that have this checksum."""
    return tuple(factors) in _PARTS.get((name, values), ())


def note(name: str, before: int, after: int, factors: Sequence[int]) -> None:
    """Keep that an adapter was added to values; all arguments but the name are checksums."""
    _PARTS[name, after] = _PARTS.get((name, before), frozenset()) | {tuple(factors)}
    if len(_PARTS) > MOST:
        del _PARTS[next(iter(_PARTS))]
