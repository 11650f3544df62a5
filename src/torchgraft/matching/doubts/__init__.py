"""Rules that put pairs in doubt which fit when looked at alone, by what all pairs together leave unmatched.

Each rule is a function with its sentence beside it; where several hold for a pair, the first of the list is told. What was
in doubt when looked at alone stays so for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torchgraft.core.plan import Doubt
from torchgraft.matching.doubts import changed, layers, lists, parts
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.reasons import BESIDE

__all__ = ["Found", "doubted"]

# A rule yields the pairs that it doubts; the sentence says why.
RULES: tuple[tuple[Callable[[Found], Iterable[Pair]], str], ...] = (
    (layers.folded_norms, layers.FOLDED),
    (layers.fused_norms, layers.FUSED),
    (layers.in_other_terms, layers.OTHER_TERMS),
    (layers.scales_and_norms, layers.SCALE),
    (layers.norms_of_attentions, layers.UNORDERED),
    (layers.against_their_words, layers.CONTRARY),
    (layers.kernels_crosswise, layers.CROSSWISE),
    (layers.one_of_several, layers.ONE_OF_SEVERAL),
    (lists.otherwise_in_other_blocks, lists.ELSEWHERE),
    (lists.counted_otherwise, lists.COUNTED),
    (lists.called_by_numbers, lists.CALLED),
    (changed.behind_replaced_blocks, BESIDE.text),
    (changed.behind_changed_blocks, changed.CHANGED),
    (changed.alike_at_other_numbers, changed.SHIFTED),
    (changed.one_block_of_several, changed.ONE_BLOCK),
    (lists.lengthened_by_other_lists, lists.LENGTHENED),
    (parts.into_other_towers, parts.OTHER_TOWER),
    (parts.beside_free_twins, parts.TWINS),
    (parts.beside_free_namesakes, parts.NAMESAKE),
    (parts.called_with_more_words, parts.MORE),
    (parts.other_norms, parts.OTHER_NORM),
    (parts.lost_in_other_parts, parts.LOST),
    (lists.counted_from_either_end, lists.EITHER_END),
)


def doubted(found: Found) -> dict[int, Doubt]:
    """Return why pairs are in doubt, by their targets; without those that no rule speaks against."""
    said: dict[int, Doubt] = {}
    for rule, sentence in RULES:
        doubt = Doubt(rule.__name__, sentence)
        for pair in rule(found):
            said.setdefault(pair.target, doubt)
    return said
