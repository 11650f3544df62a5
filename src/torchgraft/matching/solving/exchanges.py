"""Pairs that had better change partners, two by two: an assignment adds up single pairs, and doesn't see these reasons.

Exchanges are made only between pairs that fit either way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, combinations
from typing import TYPE_CHECKING

from torchgraft.matching.evidence.companions import norms_with_layers
from torchgraft.matching.evidence.scores import FITS, Evidence
from torchgraft.matching.parts.units import Unit, kind_of

if TYPE_CHECKING:
    import numpy as np

    Pairs = list[tuple[int, int]]
    Kind = tuple[tuple[str, tuple[int, ...]], ...]

# Score that an exchange may lose by names and numbers, for order: less than a name says.
CROSSING_SLACK, SWEEPS = 0.45, 3
# The same, for a module that stays together: that says as much as half of both names.
MODULE_SLACK = 1.5
# More layers than this make a block, whose parts are told apart in other ways, and fewer than this no branch.
LARGEST_MODULE, SMALLEST_BRANCH = 3, 2


def uncrossed(
    pairs: Pairs, scores: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit], order: float
) -> Pairs:
    """Return the pairs with needless crossings undone: where two pairs fit either way, both sides stay in order.

    `scores` is what speaks for each pair apart from order, and `order` the weight of that, 0 to 1. Only pairs within the
    same outermost blocks are compared, so time grows with the blocks' sizes, not with the model's.
    """
    to = dict(pairs)
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, j in pairs:
        groups.setdefault((*sources[i].blocks[:1], "", *targets[j].blocks[:1]), []).append(i)
    for members in groups.values():
        for _ in range(SWEEPS):
            if not _sweep(sorted(members), to, scores, order * CROSSING_SLACK):
                break
    return sorted(to.items())


def _sweep(members: Sequence[int], to: dict[int, int], scores: np.ndarray, slack: float) -> bool:
    changed = False
    for at, i in enumerate(members):
        for k in members[at + 1 :]:
            a, b = to[i], to[k]
            if a <= b or scores[i, b] < FITS or scores[k, a] < FITS:
                continue
            if scores[i, b] + scores[k, a] + slack >= scores[i, a] + scores[k, b]:
                to[i], to[k] = b, a
                changed = True
    return changed


def modules_together(
    pairs: Pairs, scores: np.ndarray, rare: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit]
) -> Pairs:
    """Return the pairs with modules of a few layers kept together: a norm goes where the convolution beside it goes.

    A convolution's shape is rare, its norm's is not: where blocks hold several such modules of the same width, order alone
    may send a norm elsewhere. `scores` is what speaks for each pair alone, `rare` how few units share its shapes: the
    rarer layer of a module leads.
    """
    to = dict(pairs)
    ours, theirs = _small_modules(sources), _small_modules(targets)
    back = {j: i for i, j in to.items()}
    leaders = sorted((i for i in to if sources[i].parent in ours), key=lambda i: (-float(rare[i, to[i]]), i))
    for i in leaders:
        here, there = ours[sources[i].parent], theirs.get(targets[to[i]].parent)
        if there is None or here.keys() != there.keys() or here.get(kind_of(sources[i])) != i:
            continue
        for kind, s in here.items():
            t = there[kind]
            if s != i and to.get(s) != t and rare[s, t] < rare[i, to[i]]:
                _bring_together(s, t, to, back, scores)
    return sorted(to.items())


def norms_after_layers(pairs: Pairs, scores: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit]) -> Pairs:
    """Return the pairs with norms moved to where the layers go that names give them, where little is lost by that."""
    to = dict(pairs)
    back = {j: i for i, j in to.items()}
    for norm, other in norms_with_layers(pairs, sources, targets):
        if to.get(norm) != other:
            _bring_together(norm, other, to, back, scores)
    return sorted(to.items())


def _bring_together(s: int, t: int, to: dict[int, int], back: dict[int, int], scores: np.ndarray) -> None:
    """Pair `s` with `t`, and their partners with each other, where both fit and little is lost."""
    old, other = to.get(s), back.get(t)
    if old is None or other is None or scores[s, t] < FITS or scores[other, old] < FITS:
        return
    if scores[s, t] + scores[other, old] + MODULE_SLACK < scores[s, old] + scores[other, t]:
        return
    to[s], to[other] = t, old
    back[t], back[old] = s, other


def _small_modules(units: Sequence[Unit]) -> Mapping[str, Mapping[Kind, int]]:
    """Return the modules of a few layers, and no more, that are all of different kinds, with their layers by kind."""
    held: dict[str, list[int]] = defaultdict(list)
    for at, unit in enumerate(units):
        held[unit.parent].append(at)
    larger = {around for parent in held for around in accumulate(parent.split(".")[:-1], "{}.{}".format)}
    found = {}
    for parent, inside in held.items():
        kinds = {kind_of(units[at]): at for at in inside}
        if parent and parent not in larger and 1 < len(inside) == len(kinds) <= LARGEST_MODULE:
            found[parent] = kinds
    return found


def upright(pairs: Pairs, evidence: Evidence, sources: Sequence[Unit], targets: Sequence[Unit]) -> Pairs:
    """Return the pairs with two kernels of a block exchanged where both would have to be transposed, and then neither.

    In a block that widens and narrows its channels, `conv_pw` is the first convolution in one library and `pw_conv` the last in
    another. Matrices are left alone: a whole file may store them transposed.
    """
    to = dict(pairs)
    turned: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, j in pairs:
        if evidence.turned[i, j] and len(sources[i].leaves["weight"].shape) > 2:
            turned[sources[i].block, targets[j].block].append(i)
    for inside in turned.values():
        for i, k in combinations(inside, 2):
            before, after = ((i, to[i]), (k, to[k])), ((i, to[k]), (k, to[i]))
            fit = all(evidence.fits[pair] and not evidence.turned[pair] for pair in after)
            if fit and all(evidence.turned[pair] for pair in before):
                to.update(after)
    return sorted(to.items())


def branches_by_words(
    pairs: Pairs, scores: np.ndarray, evidence: Evidence, sides: tuple[Sequence[Unit], Sequence[Unit]]
) -> Pairs:
    """Return the pairs with branches of equal shapes where their words lead: `context_block` to `ff_context`.

    Of two modules side by side that hold the same, single layers say little of which is which, and an assignment follows
    the order of registration. What all their layers say together tells it. `scores` is what speaks for each pair alone;
    only branches of which everything is paired are exchanged.
    """
    to = dict(pairs)
    for side, units in enumerate(sides):
        for twins in _twin_branches(units):
            here = to if side == 0 else {j: i for i, j in to.items()}
            if not all(a in here and b in here for a, b in twins):
                continue
            before = [pair for a, b in twins for pair in ((a, here[a]), (b, here[b]))]
            after = [pair for a, b in twins for pair in ((a, here[b]), (b, here[a]))]
            if side == 1:
                before, after = ([(i, j) for j, i in found] for found in (before, after))
            if all(scores[pair] >= FITS for pair in after) and _say_more(after, before, evidence):
                to.update(after)
    return sorted(to.items())


def _say_more(after: Pairs, before: Pairs, evidence: Evidence) -> bool:
    """Return whether words speak for some pairs against others: more of them are shared, and names are no less alike."""
    shared, names, clash = (
        sum(float(table[pair]) for pair in after) - sum(float(table[pair]) for pair in before)
        for table in (evidence.shared, evidence.names, evidence.clash)
    )
    return shared > 0 and names > 0 and clash <= 0


def _twin_branches(units: Sequence[Unit]) -> Iterator[Pairs]:
    """Yield the layers of each two modules of a block, or outside of all, that alone in it hold the same, each beside its like."""
    held: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for at, unit in enumerate(units):
        child, _, rest = unit.tail.partition(".")
        if rest and not child.isdecimal():
            held[unit.block][child][rest] = at
    for children in held.values():
        alike: dict[object, list[Mapping[str, int]]] = defaultdict(list)
        for inside in children.values():
            if len(inside) >= SMALLEST_BRANCH:
                alike[frozenset((rest, kind_of(units[at])) for rest, at in inside.items())].append(inside)
        for found in alike.values():
            if len(found) == 2:
                yield [(found[0][rest], found[1][rest]) for rest in found[0]]
