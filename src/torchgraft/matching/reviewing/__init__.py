"""What is said of the pairs of a finished matching, seen from whole modules; no pair is added or taken away."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torchgraft.core.match import Matching
from torchgraft.core.plan import Doubt
from torchgraft.matching.judging.reasons import Rule
from torchgraft.matching.reviewing.doubtful_blocks import exchanged_with_doubt, in_doubtful_blocks
from torchgraft.matching.reviewing.exchangeable import beside_unruled_twins, crossed_names, like_prefixes
from torchgraft.matching.reviewing.finished import Finished
from torchgraft.matching.reviewing.fused import factors_packed_otherwise, with_packings_doubted, with_uncut_told
from torchgraft.matching.reviewing.halves import halves_in_unknown_order, parts_in_other_order
from torchgraft.matching.reviewing.halves_left import beside_leftovers
from torchgraft.matching.reviewing.model_twins import beside_free_copies
from torchgraft.matching.reviewing.moved_modules import moved_without_word
from torchgraft.matching.reviewing.own_places import passing_own_places
from torchgraft.matching.reviewing.rotary_rows import rows_in_unknown_order
from torchgraft.matching.reviewing.split_lists import split_out_of_order

__all__ = ["Finished", "reviewed"]

# A rule returns the slots that it doubts, each with the reason; where several hold for a slot, the first is reported.
RULES: tuple[Rule[Callable[[Finished], Mapping[str, str]]], ...] = (
    Rule(rows_in_unknown_order, of_values=True),
    Rule(beside_free_copies),
    Rule(passing_own_places),
    Rule(beside_unruled_twins),
    Rule(crossed_names),
    Rule(like_prefixes),
    Rule(moved_without_word),
    Rule(factors_packed_otherwise, of_values=True),
    Rule(parts_in_other_order),
    Rule(halves_in_unknown_order),
    Rule(beside_leftovers),
    Rule(split_out_of_order),
    Rule(in_doubtful_blocks),
    Rule(exchanged_with_doubt),
)


def reviewed(finished: Finished) -> Matching:
    """Return the matching with what speaks against its pairs.

    What a rule says here is reported in place of an earlier doubt: it sees whole modules, and names them. Where the caller says
    what fills a slot, only rules that speak of values are asked.
    """
    doubts: dict[str, Doubt] = {}
    decided = {*finished.said.pairs.values()}
    for rule in RULES:
        for slot, sentence in rule.function(finished).items():
            if slot not in decided or rule.of_values:
                doubts.setdefault(slot, Doubt(rule.name, sentence))
    matching = with_packings_doubted(finished).in_doubt(doubts)
    return with_uncut_told(matching, finished.sides, finished.models)
