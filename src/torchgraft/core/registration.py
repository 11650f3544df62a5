"""Whether tensors come in the order in which a model registers them, or in another, such as that of the alphabet.

The safetensors library sorts each file by type and then by name; h5py, Flax and many programs sort by name. In what torch
itself saves, a module's tensors stand together, its weight before its bias, members of a list in the order of their numbers,
and words as the model's code has them: in none of 380 models of torchvision and timm do fewer than a quarter of neighbours
that differ by a word fall in the alphabet, and none comes back to a module.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from torchgraft.core.dtypes import DType
from torchgraft.core.names import shared_start

_DIGITS = re.compile(r"(\d+)")
# Share of neighbours that fall in the alphabet up to which names are sorted: of shards, each sorted by itself, the first name
# may come before the last one of the shard before.
SORTED = 0.125
# Share of modules that are entered once more after they were left, from which on tensors are scattered; and of neighbours in a
# list that count down, from which on lists don't come in the order of their numbers. A single one doesn't count: something may
# have been put behind all else.
SCATTERED, BACKWARDS = 0.05, 0.4


def as_registered(tensors: Iterable[tuple[str, DType]]) -> bool:
    """Return whether tensors, each with its name and type, may stand in the order of registration."""
    by_type: defaultdict[DType, list[str]] = defaultdict(list)
    for name, dtype in tensors:
        by_type[dtype].append(name)
    seen = Counter(step for names in by_type.values() for a, b in pairwise(names) for step in _steps(a, b))
    told = seen["rises"] + seen["falls"]
    if told and seen["falls"] <= SORTED * told:
        return False
    if seen["counts down"] > max(1, BACKWARDS * (seen["counts up"] + seen["counts down"])):
        return False
    if seen["bias first"] > seen["weight first"]:
        return False
    visits = [_visits(names) for names in by_type.values()]
    entered = sum(count.total() for count in visits)
    return entered - sum(map(len, visits)) <= max(1, SCATTERED * entered)


def _steps(a: str, b: str) -> Iterator[str]:
    """Yield what the step from one name to the next one is."""
    x, y = next(((x, y) for x, y in zip(_DIGITS.split(a), _DIGITS.split(b), strict=False) if x != y), (a, b))
    counts = x.isdecimal() and y.isdecimal()
    up = (len(x), x) < (len(y), y)
    if counts:
        yield "counts up" if up else "counts down"
    if not counts or up != (a < b):  # 9 comes before 10, and behind it in the alphabet
        yield "rises" if a < b else "falls"
    (module, _, one), (other, _, role) = a.rpartition("."), b.rpartition(".")
    if module == other and {one, role} == {"weight", "bias"}:
        yield f"{one} first"


def _visits(names: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return how often each module's path is entered on the way through names."""
    visits: Counter[tuple[str, ...]] = Counter()
    last: list[str] = []
    for name in names:
        path = name.split(".")[:-1]
        visits.update(tuple(path[:at]) for at in range(shared_start(path, last) + 1, len(path) + 1))
        last = path
    return visits
