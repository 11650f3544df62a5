"""Rules that put pairs in doubt which fit when looked at alone, by what all pairs together leave unmatched.

Each rule is a function with its sentence beside it; where several hold for a pair, the first of the list is reported. What was
in doubt when looked at alone stays so for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torchgraft.core.plan import Doubt
from torchgraft.matching.doubts import changed, layers, lists, parts, rows
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.reasons import BESIDE, Rule

__all__ = ["OF_VALUES", "Found", "doubted"]

# A rule yields the pairs that it doubts; the sentence says why.
RULES: tuple[Rule[Callable[[Found], Iterable[Pair]]], ...] = (
    Rule(layers.folded_norms, layers.FOLDED, of_values=True),
    Rule(layers.fused_norms, layers.FUSED, of_values=True),
    Rule(layers.in_other_terms, layers.OTHER_TERMS, of_values=True),
    Rule(layers.scales_and_norms, layers.SCALE),
    Rule(layers.norms_of_attentions, layers.UNORDERED),
    Rule(layers.against_their_words, layers.CONTRARY),
    Rule(layers.passing_named_layers, layers.PASSING),
    Rule(layers.kernels_crosswise, layers.CROSSWISE),
    Rule(layers.one_of_several, layers.ONE_OF_SEVERAL),
    Rule(lists.otherwise_in_other_blocks, lists.ELSEWHERE),
    Rule(lists.counted_otherwise, lists.COUNTED),
    Rule(lists.called_by_numbers, lists.CALLED),
    Rule(changed.behind_replaced_blocks, BESIDE.text),
    Rule(changed.behind_changed_blocks, changed.CHANGED),
    Rule(changed.behind_left_out_blocks, changed.LEFT_OUT),
    Rule(changed.behind_split_off_blocks, changed.SPLIT_OFF),
    Rule(changed.alike_at_other_numbers, changed.SHIFTED),
    Rule(changed.one_block_of_several, changed.ONE_BLOCK),
    Rule(changed.beside_moved_lists, changed.BESIDE_MOVED),
    Rule(lists.lengthened_by_other_lists, lists.LENGTHENED),
    Rule(rows.torn_from_other_rows, rows.TORN),
    Rule(lists.leaving_their_blocks, lists.LEAVES),
    Rule(lists.straying_from_named_blocks, lists.STRAYS),
    Rule(lists.leaving_free_blocks, lists.BEHIND),
    Rule(rows.members_crosswise, rows.CROSSED),
    Rule(rows.blocks_crosswise, rows.BLOCKS_CROSSED),
    Rule(rows.leaving_their_numbers, rows.OWN_NUMBER),
    Rule(parts.into_other_towers, parts.OTHER_TOWER),
    Rule(parts.beside_free_twins, parts.TWINS),
    Rule(parts.beside_free_namesakes, parts.NAMESAKE),
    Rule(parts.called_with_more_words, parts.MORE),
    Rule(parts.called_new, parts.NEW),
    Rule(parts.other_norms, parts.OTHER_NORM),
    Rule(parts.lost_in_other_parts, parts.LOST),
    Rule(lists.counted_from_either_end, lists.EITHER_END),
)
OF_VALUES = frozenset(rule.name for rule in RULES if rule.of_values)


def doubted(found: Found) -> dict[int, Doubt]:
    """Return why pairs are in doubt, by their targets; without those that no rule speaks against."""
    said: dict[int, Doubt] = {}
    for rule in RULES:
        doubt = Doubt(rule.name, rule.sentence)
        for pair in rule.function(found):
            said.setdefault(pair.target, doubt)
    return said
