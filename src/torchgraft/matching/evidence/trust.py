"""Which equal names may decide, and which may be the names of other layers after something was inserted or moved."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from torchgraft.core.names import parent_of
from torchgraft.matching.parts.units import Unit, kind_of, same_roles

Kind = tuple[tuple[str, tuple[int, ...]], ...]


def trusted(pinned: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]) -> dict[int, int]:
    """Return the pins that names may decide.

    In a numbered list where both sides have layers that names don't settle (left over, moved, or of another shape), a
    number proves nothing: a layer may have been inserted. There the order of the whole list decides. The same holds in a
    row of layers (`layers.0`, `layers.1`) where one side has a member left over, and the other a layer of the same shapes
    left over beside the row (`proj_in`): the row may start with what the other side keeps outside.
    """
    if not pinned:
        return {}
    used = set(pinned.values())
    sure = {i: j for i, j in pinned.items() if _agree(sources[i], targets[j])}
    left_sources = [u for i, u in enumerate(sources) if i not in sure]
    left_targets = [u for j, u in enumerate(targets) if j not in used]
    open_sources = {outermost_list(u) for u in left_sources}
    open_targets = {outermost_list(u) for u in left_targets} | {
        outermost_list(targets[j]) for i, j in pinned.items() if i not in sure
    }
    rows = (_rows(left_sources), _rows(left_targets))
    around = [
        {parent_of(row) for at in side if (row := _row_of(units[at]))}
        for side, units in ((pinned, sources), (used, targets))
    ]
    beside = (_beside(left_sources, around[0]), _beside(left_targets, around[1]))

    def shifted(i: int, j: int) -> bool:
        ours, theirs = _row_of(sources[i]), _row_of(targets[j])
        if not (ours and theirs):
            return False
        into, out_of = parent_of(theirs), parent_of(ours)
        return bool(
            rows[0].get(ours, set()) & beside[1].get(into, set())
            or rows[1].get(theirs, set()) & beside[0].get(out_of, set())
        )

    return {
        i: j
        for i, j in pinned.items()
        if not (
            outermost_list(sources[i])
            and outermost_list(sources[i]) in open_sources
            and outermost_list(targets[j]) in open_targets
        )
        and not shifted(i, j)
    }


def _agree(source: Unit, target: Unit) -> bool:
    if source.numbers != target.numbers:
        return False
    pairs = same_roles(source, target)
    return bool(pairs) and all(a.shape == b.shape for a, b in pairs) and len(source.leaves) == len(target.leaves)


def outermost_list(unit: Unit) -> str:
    """Return the path up to the first number, the list that the unit stands in: "" without one, "." at the root."""
    before = ""
    for part in unit.path.split("."):
        if part.isdecimal():
            return before or "."
        before += part + "."
    return ""


def _row_of(unit: Unit) -> str:
    """Return the path of the list that the unit itself is a member of, "" for others."""
    return unit.parent if unit.last.isdecimal() else ""


def _rows(units: Iterable[Unit]) -> dict[str, set[Kind]]:
    """Return what kinds of layers are left over in each row."""
    found: dict[str, set[Kind]] = {}
    for unit in units:
        row = _row_of(unit)
        if row:
            found.setdefault(row, set()).add(kind_of(unit))
    return found


def _beside(units: Iterable[Unit], paths: Container[str]) -> dict[str, set[Kind]]:
    """Return what kinds of layers are left over directly below each of the paths, outside of rows."""
    found: dict[str, set[Kind]] = {}
    for unit in units:
        if unit.parent in paths and not unit.last.isdecimal():
            found.setdefault(unit.parent, set()).add(kind_of(unit))
    return found
