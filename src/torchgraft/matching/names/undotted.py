"""Names that lost their dots: averaged weights and adapters store `blocks.0.fc` as `blocks0fc` or `blocks_0_fc`.

Dots can't be put back from the source's side; taking them out of the target's names gives the match.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from torchgraft.core.names import above, ends, shared_start, without_common_end, wrappers

_LOOSE = re.compile(r"(?<=[A-Za-z])[._](?=\d+(?:\.|$))")
_DIGITS = re.compile(r"[0-9]+")
_ZEROS = str.maketrans("123456789", "000000000")
JOINTS = ("", "_")


def undotted(keys: Iterable[str], names: Iterable[str], joint: str = "", wrapper: str = "") -> dict[str, str]:
    """Return key -> target name for keys whose last segment is a target name with dots replaced by `joint`.

    One run of letters in front (what the averaged module was called inside its parent) is allowed if it is the same
    for all. Target names that become equal without their dots are left out: they can't be told apart; so are those that
    several keys mean. `wrapper` is a path of the model's that the keys don't have.
    """
    called = {name: name.removeprefix(wrapper) for name in names}
    short = {name: own.replace(".", joint) for name, own in called.items()}
    times = Counter(short.values())
    flat = {short[name]: name for name, own in called.items() if short[name] != own and times[short[name]] == 1}
    if not flat:
        return {}
    ends = {key: key.rpartition(".")[2] for key in keys}
    whole = {key: ("." in key and end) or key for key, end in ends.items()}
    longest = max(map(len, flat))  # a key may be a megabyte long: only its end can be a name
    votes = Counter(
        end[:at] for end in whole.values() for at in range(max(len(end) - longest, 0), len(end)) if end[at:] in flat
    )
    if not votes:
        return {}
    before = votes.most_common(1)[0][0]
    found = {
        key: flat[end[len(before) :]]
        for key, end in whole.items()
        if end.startswith(before) and end[len(before) :] in flat and key != flat[end[len(before) :]]
    }
    meant = Counter(found.values())
    return {key: name for key, name in found.items() if meant[name] == 1}


def restored(keys: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Return undotted keys of a state dict that has any, for names that none of its dotted keys serves."""
    keys = list(keys)
    long = [key for key in keys if key.count(".") <= 1 and key not in names]
    if not long:
        return {}
    served = _served(keys, names)
    open_names = [n for n in names if n not in served]
    found: dict[str, str] = {}
    for wrapper in ("", *wrappers(names)):
        bare = {name.removeprefix(wrapper) for name in names} if wrapper else set()
        served = _served(keys, {name for name in bare if "." in name})
        wanted = [name for name in open_names if name.removeprefix(wrapper) not in served]
        found = max(found, *(undotted(long, wanted, joint, wrapper) for joint in JOINTS), key=len)
    return found if len(found) > 1 or (len(found) == len(names) > 0) else {}


def _served(keys: Iterable[str], names: Collection[str]) -> set[str]:
    """Return the names that a key ends with, after a dot."""
    wanted = set(names)
    return {end for key in keys for end in ends(key) if end in wanted}


def respelled(keys: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """Return key -> the same with numbers written as the model writes them: `norm.1` for `norm1`, `layer_2`, `layer2`.

    Only what stands between a letter and a number is another spelling: `blocks.1.2` and `blocks.12` are not the same. The
    keys may stand under a prefix, which is kept.
    """
    wanted = set(names)
    hopeful = _hopeful([key for key in keys if key not in wanted], wanted)
    open_keys = [key for key in hopeful if not any(end in wanted for end in ends(key))]
    loose: dict[str, str] = {}
    for name in wanted if open_keys else ():
        short = _LOOSE.sub("", name)
        loose[short] = "" if short in loose else name
    found: dict[str, str] = {}
    begins: dict[str, int] = {}
    for key in open_keys:
        gaps = [gap.start() for gap in _LOOSE.finditer(key)]
        short = _LOOSE.sub("", key)
        for end in ends(key):
            at = len(key) - len(end)
            written = loose.get(short[at - bisect_left(gaps, at) :])
            if written:
                found[key] = key[:at] + written
                begins[key] = at
                break
    found = _counted_alike(found, begins, keys, wanted) if found else {}
    if not found:
        return {}
    found |= _alike(found, keys)
    taken = Counter(found.values())
    here = set(keys)
    return {key: name for key, name in found.items() if taken[name] == 1 and name not in here}


def _counted_alike(
    found: Mapping[str, str], begins: Mapping[str, int], keys: Iterable[str], names: Iterable[str]
) -> dict[str, str]:
    """Return what is `found` without rows of which either side has numbers that the other lacks.

    `linear_c1` to `linear_c4` are `linear_c.0` to `linear_c.3`. `begins` says where a name begins in its key.
    """
    rows = {key: _respelled_row(key, found[key]) for key in found}
    heads = {head for head, _ in rows.values()}, {other[begins[key] :] for key, (_, other) in rows.items()}
    ours, theirs = _numbers_behind(heads[0], keys), _numbers_behind(heads[1], names)

    def alike(key: str) -> bool:
        head, other = rows[key]
        mine, its = ours[head], theirs[other[begins[key] :]]
        return mine <= its or its <= mine

    return {key: name for key, name in found.items() if alike(key)}


def _respelled_row(key: str, name: str) -> tuple[str, str]:
    """Return what stands before the first number that is written in another way, in a key and in its name."""
    at = shared_start(key, name)
    heads = [(text[:at] + text[at : at + 1].strip("0123456789")) for text in (key, name)]
    return heads[0], heads[1]


def _numbers_behind(heads: Collection[str], names: Iterable[str]) -> dict[str, set[int]]:
    """Return the numbers that stand right behind each of the heads in some name."""
    found: dict[str, set[int]] = {head: set() for head in heads}
    for name in names:
        for number in _DIGITS.finditer(name):
            if name[: number.start()] in found:
                found[name[: number.start()]].add(int(number[0]))
    return found


def _hopeful(keys: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the keys of which an end is written as a name is but for numbers, and otherwise before them.

    That is asked once of all keys that differ in nothing but numbers, of which a large model has many.
    """
    if not keys:
        return []
    written: dict[str, set[str]] = {}
    for form in set(_numberless(names)):
        written.setdefault(_LOOSE.sub("", form), set()).add(form)
    forms = dict(zip(keys, _numberless(keys), strict=True))
    like = {
        form
        for form in set(forms.values())
        if any(written.get(_LOOSE.sub("", end), {end}) != {end} for end in ends(form))
    }
    return [key for key, form in forms.items() if form in like] if like else []


def _numberless(names: Collection[str]) -> list[str]:
    """Return the names with a zero for each number, all at once: one by one takes many times as long."""
    together = "\n".join(names).translate(_ZEROS)
    while "00" in together:
        together = together.replace("00", "0")
    found = together.split("\n")
    return found if len(found) == len(names) else [_DIGITS.sub("0", name) for name in names]


def _alike(found: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """Return the other keys below the paths that were respelled: the tensors of one module stay together."""
    heads: dict[str, set[str]] = {}
    for key, name in found.items():
        old, new = without_common_end(key, name)
        heads.setdefault(old, set()).add(new)
    out: dict[str, str] = {}
    for key in keys:
        if key in found:
            continue
        head = next((head for head in above(key) if head in heads), None)
        if head is not None and len(heads[head]) == 1:
            out[key] = next(iter(heads[head])) + key[len(head) :]
    return out
