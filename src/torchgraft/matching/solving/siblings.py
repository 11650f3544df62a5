"""Modules of a few layers move as a whole: a norm goes where the convolution beside it in its module goes.

A convolution's shape is rare, its norm's is not. Where blocks hold several such modules of the same width, norms fit
each other, and order alone may send a norm where its convolution doesn't go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torchgraft.matching.evidence.scores import FITS
from torchgraft.matching.parts.units import Unit, kind_of

if TYPE_CHECKING:
    import numpy as np

# Score that an exchange may lose by names and numbers: that a module stays whole says as much as half of both names.
SLACK = 1.5
# More layers than this make a block, not a module, and its parts are told apart in other ways.
FEW = 3

Kind = tuple[tuple[str, tuple[int, ...]], ...]


def kept_whole(
    pairs: Sequence[tuple[int, int]],
    scores: np.ndarray,
    rare: np.ndarray,
    sources: Sequence[Unit],
    targets: Sequence[Unit],
) -> list[tuple[int, int]]:
    """Return the pairs with siblings together, where those that part them can change places without much loss.

    `scores` is what speaks for each pair alone, `rare` how few units share its shapes: the rarer sibling leads.
    """
    to = dict(pairs)
    ours, theirs = _modules(sources), _modules(targets)
    back = {j: i for i, j in to.items()}
    leaders = sorted((i for i in to if sources[i].parent in ours), key=lambda i: (-float(rare[i, to[i]]), i))
    for i in leaders:
        here, there = ours[sources[i].parent], theirs.get(targets[to[i]].parent)
        if there is None or here.keys() != there.keys() or here.get(kind_of(sources[i])) != i:
            continue
        for kind, s in here.items():
            t = there[kind]
            if s != i and to.get(s) != t and rare[s, t] < rare[i, to[i]]:
                _exchange(s, t, to, back, scores)
    return sorted(to.items())


def _exchange(s: int, t: int, to: dict[int, int], back: dict[int, int], scores: np.ndarray) -> None:
    """Pair `s` with `t`, and their partners with each other, where both fit and little is lost."""
    old, other = to.get(s), back.get(t)
    if old is None or other is None or scores[s, t] < FITS or scores[other, old] < FITS:
        return
    if scores[s, t] + scores[other, old] + SLACK < scores[s, old] + scores[other, t]:
        return
    to[s], to[other] = t, old
    back[t], back[old] = s, other


def _modules(units: Sequence[Unit]) -> Mapping[str, Mapping[Kind, int]]:
    """Return the modules of a few layers that are all of different kinds, with their layers by kind."""
    held: dict[str, list[int]] = defaultdict(list)
    for at, unit in enumerate(units):
        held[unit.parent].append(at)
    found = {}
    for parent, inside in held.items():
        kinds = {kind_of(units[at]): at for at in inside}
        if parent and 1 < len(inside) == len(kinds) <= FEW:
            found[parent] = kinds
    return found
