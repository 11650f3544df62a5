"""Numbered lists in names: `layers.0` and `layers.1` are members of one, so are `layer1` and `layer2`, `b4a` and `b4b`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from torchgraft.core.match import Leaf

_NUMBER = re.compile(r"\d+(?:[a-z](?![^.]))?")

# The path around a list, and what stands before the numbers of its members: ("net", "layer") of `net.layer1`.
ListName = tuple[str, str]


@lru_cache(maxsize=20_000)
def stem(segment: str) -> str | None:
    """Return what stands before the number at the end of a segment: "" for `3`, `layer` for `layer3`; None without.

    A letter behind a number counts as one: `block4` for `block4b`.
    """
    bare = segment.rstrip("0123456789")
    if len(bare) < len(segment):
        return bare
    lettered = segment[-1:].isalpha() and segment[-1:].islower() and segment[-2:-1].isdecimal()
    return segment[:-1] if lettered else None


def list_of(path: str) -> ListName:
    """Return the list that a member is in: the path around it, and what stands before its number."""
    parent, _, last = path.rpartition(".")
    return parent, stem(last) or ""


def number_of(path: str) -> int:
    """Return the number of a member in its list; of a letter its place in the alphabet."""
    return member_of(path)[1]


@lru_cache(maxsize=20_000)
def member_of(path: str) -> tuple[ListName, int]:
    """Return the list that a member is in, and its number there."""
    parent, _, last = path.rpartition(".")
    before = stem(last) or ""
    end = last[len(before) :]
    return (parent, before), int(end) if end.isdecimal() else ord(end) - ord("a")


def is_one_path(ours: str, theirs: str) -> bool:
    """Return whether two paths are one but for what stands before it."""
    return f".{ours}".endswith(f".{theirs}") or f".{theirs}".endswith(f".{ours}")


def have_one_name(source: Leaf, target: Leaf) -> bool:
    """Return whether two tensors have a path in common, by any of their names."""
    return any(is_one_path(a, b) for a in (source.name, *source.also) for b in (target.name, *target.also))


def by_content(paths: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Return the modules that hold the paths, by the last segments of these: a large model has few kinds of modules."""
    held: dict[str, list[str]] = {}
    for path in paths:
        parent, _, last = path.rpartition(".")
        held.setdefault(parent, []).append(last)
    found: dict[tuple[str, ...], list[str]] = {}
    for parent, inside in held.items():
        found.setdefault(tuple(inside), []).append(parent)
    return found


def numbered_lists(modules: Mapping[tuple[str, ...], Iterable[str]]) -> set[ListName]:
    """Return the numbered lists in and around modules `by_content`, as (parent path, stem): two or more members.

    A list of one counts where the same place of another block holds more: `layer1.0` beside `layer2.0` and `layer2.1`.
    """
    seen: dict[ListName, set[str]] = {}
    members: dict[ListName, set[str]] = {}
    known = {""}

    def member(parent: str, last: str) -> None:
        before = stem(last)
        if before is not None:
            numbers = seen.get((parent, before))
            if numbers is None:
                numbers = seen[parent, before] = members.setdefault((place_of(parent), place_of(before)), set())
            numbers.add(last[len(before) :])

    for inside, parents in modules.items():
        ends = [last for last in inside if stem(last) is not None]
        for parent in parents:
            for last in ends:
                member(parent, last)
            around = parent
            while around not in known:
                known.add(around)
                around, _, last = around.rpartition(".")
                member(around, last)
    return {key for key, numbers in seen.items() if len(numbers) > 1}


@lru_cache(maxsize=200_000)
def place_of(path: str) -> str:
    """Return a path with its numbers set aside: what members of lists in corresponding places share."""
    return _NUMBER.sub("#", path)


def blocks_around(modules: Iterable[str], lists: Collection[ListName]) -> dict[str, tuple[str, ...]]:
    """Return for each module the members of numbered lists on the way to it, which may be one itself, outermost first."""
    found: dict[str, tuple[str, ...]] = {"": ()}

    def of(path: str) -> tuple[str, ...]:
        known = found.get(path)
        if known is None:
            parent, _, last = path.rpartition(".")
            before, known = stem(last), of(parent)
            if before is not None and (parent, before) in lists:
                known = (*known, path)
            found[path] = known
        return known

    return {path: of(path) for path in modules}


def is_numbered(name: str) -> bool:
    """Return whether a name lies in a member of a numbered list, or is one."""
    return any(part.isdecimal() for part in name.split("."))


def numbers(path: str) -> tuple[int, ...]:
    """Return the all-digit segments of `path` as numbers."""
    return tuple(int(part) for part in path.split(".") if part.isdecimal())


def counted(paths: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the numbers in each path, each counted from the first of its list: of layers 1 to 9 the first is 0."""
    firsts: dict[str, int] = {}
    split = [numbered(path) for path in paths]
    for found in split:
        for before, number, _ in found:
            firsts[before] = min(number, firsts.get(before, number))
    return [tuple(number - firsts[before] for before, number, _ in found) for found in split]


def may_count_otherwise(paired: Collection[str], free: Collection[str]) -> bool:
    """Return whether what is left over of a list says that its numbers may mean other members on the other side."""
    return _lacks_its_first(paired, free) or _fits_otherwise(paired, free)


def _lacks_its_first(paired: Collection[str], free: Iterable[str]) -> bool:
    """Return whether a list has a 1 paired and its 0 left over, and nothing paired stands at a 0: it may count from one."""
    if any(".0." in f".{name}." for name in paired):
        return False
    firsts = {before for name in free for before, number, _ in numbered(name) if number == 0}
    return bool(firsts) and any(n == 1 and before in firsts for name in paired for before, n, _ in numbered(name))


def fits_at_other_numbers(ours: Mapping[int, object], theirs: Mapping[int, object]) -> bool:
    """Return whether members of two lists, each with its build, fit as a run at other numbers, and more of them than at their own.

    Members of one build fit anywhere: that says something only where all of the shorter list fit.
    """
    fewer, more = sorted((ours, theirs), key=len)
    own = sum(more.get(at) == build for at, build in fewer.items())
    if own == len(fewer):
        return False
    usual, _ = Counter(fewer.values()).most_common(1)[0]
    odd = [(at, build) for at, build in fewer.items() if build != usual]
    inside = range(min(more) - min(fewer), max(more) - max(fewer) + 1)
    shifts = {there - at for at, build in odd for there, other in more.items() if other == build} if odd else inside
    return any(_fits_at(shift, fewer, more, own) for shift in shifts)


def _fits_at(shift: int, fewer: Mapping[int, object], more: Mapping[int, object], least: int) -> bool:
    """Return whether all members that meet at a distance are of one build, more than so many, and no run of one build of others."""
    met = [at for at in fewer if at + shift in more]
    if not len(met) > least or any(fewer[at] != more[at + shift] for at in met):
        return False
    return len(met) == len(fewer) or len({fewer[at] for at in met}) > 1


def _fits_otherwise(paired: Iterable[str], free: Iterable[str]) -> bool:
    """Return whether what is left over of a list shows that its members may stand at other numbers than on the other side.

    `blocks.3` and `blocks.0.down` left over, of blocks 0 to 3: without its first block the list is built like the other side's.
    """
    left: dict[str, dict[int, set[str]]] = {}
    for name in free:
        for before, number, end in numbered(name):
            left.setdefault(before, {}).setdefault(number, set()).add(end)
    uneven = {before for before, members in left.items() if len({frozenset(ends) for ends in members.values()}) > 1}
    if not uneven:
        return False
    held: dict[str, dict[int, set[str]]] = {before: {} for before in uneven}
    for name in paired:
        for before, number, end in numbered(name):
            if before in held:
                held[before].setdefault(number, set()).add(end)
    return any(
        fits_at_other_numbers(
            {number: frozenset(ends) for number, ends in members.items()},
            {
                number: frozenset(members.get(number, set()) | left[before].get(number, set()))
                for number in members.keys() | left[before].keys()
            },
        )
        for before, members in held.items()
        if members
    )


def numbered(path: str) -> list[tuple[str, int, str]]:
    """Return the all-digit segments of a path as numbers, each with the path before it and the one behind it."""
    parts = path.split(".")
    return [
        (".".join(parts[:at]), int(part), ".".join(parts[at + 1 :]))
        for at, part in enumerate(parts)
        if part.isdecimal()
    ]
