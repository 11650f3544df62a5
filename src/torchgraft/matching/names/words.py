"""Names as canonical words, so that two libraries' spellings of one thing compare as equal."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from torchgraft.core.names import words
from torchgraft.matching.tables.dialect import PHRASES


def _respelled() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the phrases; those with `attn` also with its other spellings, which come first in a name."""
    spellings = [phrase[0] for phrase, meant in PHRASES.items() if len(phrase) == 1 and meant == ("attn",)]
    out = dict(PHRASES)
    for phrase, meant in PHRASES.items():
        for spelling in spellings if len(phrase) > 1 else ():
            out.setdefault(tuple(spelling if word == "attn" else word for word in phrase), meant)
    return out


_PHRASES = _respelled()
_LONGEST = max(map(len, _PHRASES))
_NUMBER = re.compile(r"\d+(?:[a-z](?![^.]))?")


def canonical(name: str) -> tuple[str, ...]:
    """Return the words of a dotted `name` in canonical spelling.

    Numbers stay: an all-digit segment as `#` (the number itself counts elsewhere), a digit behind a word as `@n`.
    """
    return _canonical(tuple("#" if part.isdecimal() else part for part in name.split(".")))


@lru_cache(maxsize=50_000)
def _canonical(segments: tuple[str, ...]) -> tuple[str, ...]:
    spelled = (word for part in segments for word in ((part,) if part == "#" else words(part)))
    return _translate(_translate(tuple(spelled)))


def _translate(spelled: tuple[str, ...]) -> tuple[str, ...]:
    out: list[str] = []
    at = 0
    while at < len(spelled):
        for size in range(min(_LONGEST, len(spelled) - at), 0, -1):
            found = _PHRASES.get(spelled[at : at + size])
            if found is not None:
                out.extend(found)
                at += size
                break
        else:
            word = spelled[at]
            out.append(f"@{word}" if word.isdecimal() else word)
            at += 1
    return tuple(out)


def numbers(path: str) -> tuple[int, ...]:
    """Return the all-digit segments of `path` as numbers."""
    return tuple(int(part) for part in path.split(".") if part.isdecimal())


def lacks_its_first(paired: Collection[str], free: Iterable[str]) -> bool:
    """Return whether nothing paired stands at a 0, and a list with a 1 there has its 0 left over: its numbers may be counted from one."""
    if any(".0." in f".{name}." for name in paired):
        return False
    firsts = {before for name in free for before, number in _numbered(name) if number == 0}
    return bool(firsts) and any(n == 1 and before in firsts for name in paired for before, n in _numbered(name))


def counted(paths: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the numbers in each path, each counted from the first of its list: of layers 1 to 9 the first is 0."""
    firsts: dict[str, int] = {}
    split = [_numbered(path) for path in paths]
    for found in split:
        for before, number in found:
            firsts[before] = min(number, firsts.get(before, number))
    return [tuple(number - firsts[before] for before, number in found) for found in split]


def _numbered(path: str) -> list[tuple[str, int]]:
    """Return the all-digit segments of a path, each with what stands before it."""
    parts = path.split(".")
    return [(".".join(parts[:at]), int(part)) for at, part in enumerate(parts) if part.isdecimal()]


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


def place_in_list(end: str) -> int:
    """Return the number that a segment ends in, behind its stem; of a letter its place in the alphabet."""
    return int(end) if end.isdecimal() else ord(end) - ord("a")


def counted_from_zero(paths: Iterable[str], others: Iterable[str] = ()) -> set[str]:
    """Return the paths whose last segment ends in a number of a row that is counted from zero: `bn0`, `bn1`, `bn2`.

    Not those whose numbers have a meaning as they are: `wi_0` is a gate; nor where few blocks begin at zero, or the `others`
    (the paths of the other side) have just the rest of the row: there it is something more.
    """
    rest = {(before, *sorted(row)) for (_, before), row in _rows_of_numbers(others).items()}
    whole = [
        row
        for (_, before), row in _rows_of_numbers(paths).items()
        if len(row) > 1
        and 0 in row
        and 2 * len(row[0]) > len(row.get(1, ()))
        and (before, *sorted(row)[1:]) not in rest
    ]
    return {path for row in whole for paths in row.values() for path in paths}


def _rows_of_numbers(paths: Iterable[str]) -> dict[tuple[str, str], dict[int, list[str]]]:
    """Return the paths that end in a number by the place and the stem of their row, and by their number."""
    rows: dict[tuple[str, str], dict[int, list[str]]] = {}
    for path in paths:
        parent, _, last = path.rpartition(".")
        before = stem(last)
        if before and last[-1].isdecimal() and (*words(before), "0") not in PHRASES:
            rows.setdefault((place_of(parent), before), {}).setdefault(int(last[len(before) :]), []).append(path)
    return rows


def before_the_first(paths: Iterable[str]) -> dict[str, str]:
    """Return how `pre_norm` is read beside a norm that is numbered as the first: as one before it, number 0.

    RWKV calls it `ln0`, and transformers `pre_ln`, in the only block that has one; alone, `pre_norm` is the first.
    """
    ahead: dict[str, str] = {}
    first: set[str] = set()
    for path in dict.fromkeys(paths):
        parent, _, last = path.rpartition(".")
        if canonical(last) == FIRST_NORM:
            if last[-1].isdecimal():
                first.add(place_of(parent))
            elif words(last)[0] == "pre":
                ahead[path] = f"{parent}.norm0" if parent else "norm0"
    return {path: said for path, said in ahead.items() if place_of(path.rpartition(".")[0]) in first}


FIRST_NORM = ("norm", "@1")


def counted_from_one(path: str) -> str:
    """Return a path with the number at its end one higher, as for a row counted from one."""
    bare = path.rstrip("0123456789")
    return f"{bare}{int(path[len(bare) :]) + 1}"


# What the members of a list are that an attention keeps its projections in, as in The Annotated Transformer and the BERT
# that follows it, by the length of the list.
PROJECTIONS = {"linears": ("q", "k", "v", "o"), "linear_layers": ("q", "k", "v")}


def by_position(paths: Iterable[str]) -> dict[str, str]:
    """Return how members of lists are read that are told by their number alone: `linears.1` is the key."""
    found: dict[str, dict[int, str]] = {}
    for path in paths:
        row, _, number = path.rpartition(".")
        if number.isdecimal() and row.rpartition(".")[2] in PROJECTIONS:
            found.setdefault(row, {})[int(number)] = path
    return {
        path: ".".join(filter(None, (row.rpartition(".")[0], meant)))
        for row, members in found.items()
        if sorted(members) == list(range(len(said := PROJECTIONS[row.rpartition(".")[2]])))
        for meant, (_, path) in zip(said, sorted(members.items()), strict=True)
    }


# What an attention's way back is called beside its query, key and value, in Flax and in OpenAI's Whisper.
BACK = frozenset({"out", "output"})


def beside_queries(paths: Iterable[str]) -> dict[str, str]:
    """Return how `out` is read beside query, key and value of one module: as the projection of the attention's output."""
    inside: dict[str, dict[str, str]] = {}
    for path in dict.fromkeys(paths):
        parent, _, last = path.rpartition(".")
        inside.setdefault(parent, {})[last] = path
    return {
        children[back]: f"{parent}.o" if parent else "o"
        for parent, children in inside.items()
        for back in BACK & children.keys()
        if {("q",), ("k",), ("v",)} <= {canonical(last) for last in children}
    }


# Names of the layers of a gated network: gate, down and up.
GATED = (("w", "1"), ("w", "2"), ("w", "3"))
# What they are where the way back down has a name of its own: as in Qwen's own code of its first version.
BESIDE_DOWN = {"c_proj": {"1": "up", "2": "gate"}}


def without_third(paths: Iterable[str]) -> dict[str, str]:
    """Return how `w1` and `w2` are read where no `w3` is beside them: as the two layers of a plain network.

    With a third, there or at the same place of another member of a list, they are gate and down of a gated one, as in Llama.
    """
    found: dict[str, dict[tuple[str, ...], str]] = {}
    gated: set[str] = set()
    known = dict.fromkeys(paths)
    for path in known:
        parent, _, last = path.rpartition(".")
        if last[:1] in "wW" and (third := words(last)) in GATED:
            found.setdefault(parent, {})[third] = path
            if third == GATED[2]:
                gated.add(place_of(parent))
    said: dict[str, str] = {}
    for parent, row in found.items():
        if GATED[2] in row or (gated and place_of(parent) in gated):
            continue
        down = next((name for name in BESIDE_DOWN if f"{parent}.{name}" in known), "")
        for (_, number), path in row.items():
            meant = BESIDE_DOWN[down][number] if down and len(row) > 1 else f"fc{number}"
            said[path] = f"{parent}.{meant}" if parent else meant
    return said


def numbered_lists(paths: Iterable[str]) -> set[tuple[str, str]]:
    """Return the numbered lists among `paths`, as (parent path, stem): two or more modules that differ in a number.

    A list of one counts where the same place of another block holds more: `layer1.0` beside `layer2.0` and `layer2.1`.
    """
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    members: dict[tuple[str, str], set[str]] = {}
    known: set[str] = set()
    for path in paths:
        around = path
        while around and around not in known:
            known.add(around)
            parent, _, last = around.rpartition(".")
            before = stem(last)
            if before is not None:
                place = seen.get((parent, before))
                if place is None:
                    place = seen[parent, before] = place_of(parent), place_of(before)
                members.setdefault(place, set()).add(last[len(before) :])
            around = parent
    return {key for key, place in seen.items() if len(members[place]) > 1}


@lru_cache(maxsize=200_000)
def place_of(path: str) -> str:
    """Return a path with its numbers set aside: what members of lists in corresponding places share."""
    return _NUMBER.sub("#", path)


def blocks_of(path: str, lists: Collection[tuple[str, str]]) -> tuple[str, ...]:
    """Return the members of numbered lists that hold a module, outermost first: `stages.1`, `stages.1.blocks.3`."""
    return members_of(path.rpartition(".")[0], lists)


def members_of(path: str, lists: Collection[tuple[str, str]]) -> tuple[str, ...]:
    """Return the members of numbered lists on the way to `path`, which may be one itself, outermost first."""
    blocks: list[str] = []
    while path:
        parent, _, last = path.rpartition(".")
        before = stem(last)
        if before is not None and (parent, before) in lists:
            blocks.append(path)
        path = parent
    return tuple(reversed(blocks))
