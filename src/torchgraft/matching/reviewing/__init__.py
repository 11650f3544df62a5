"""What is said of the pairs of a finished matching, seen from whole modules; no pair is added or taken away."""

from __future__ import annotations

from torchgraft.core.match import Matching
from torchgraft.core.plan import Doubt
from torchgraft.matching.names.said import OF_VALUES
from torchgraft.matching.reviewing.exchangeable import beside_unruled_twins, crossed_names, like_prefixes
from torchgraft.matching.reviewing.finished import Finished, Rule
from torchgraft.matching.reviewing.fused import factors_packed_otherwise, with_packings_doubted, with_uncut_told
from torchgraft.matching.reviewing.halves import halves_in_unknown_order, parts_in_other_order
from torchgraft.matching.reviewing.halves_left import beside_leftovers
from torchgraft.matching.reviewing.model_twins import beside_free_copies
from torchgraft.matching.reviewing.moved_modules import moved_without_word
from torchgraft.matching.reviewing.own_places import passing_own_places
from torchgraft.matching.reviewing.rotary_rows import rows_in_unknown_order

__all__ = ["Finished", "reviewed"]

# Rules of doubt; where several hold for a slot, the first is told.
RULES: tuple[Rule, ...] = (
    rows_in_unknown_order,
    beside_free_copies,
    passing_own_places,
    beside_unruled_twins,
    crossed_names,
    like_prefixes,
    moved_without_word,
    factors_packed_otherwise,
    parts_in_other_order,
    halves_in_unknown_order,
    beside_leftovers,
)


def reviewed(finished: Finished) -> Matching:
    """Return the matching with what speaks against its pairs.

    What a rule says here is told in place of an earlier doubt: it sees whole modules, and names them. Where the caller says
    what fills a slot, only rules that speak of values are asked.
    """
    doubts: dict[str, Doubt] = {}
    decided = {*finished.said.pairs.values()}
    for rule in RULES:
        for slot, sentence in rule(finished).items():
            if slot not in decided or rule.__name__ in OF_VALUES:
                doubts.setdefault(slot, Doubt(rule.__name__, sentence))
    matching = with_packings_doubted(finished).in_doubt(doubts)
    return with_uncut_told(matching, finished.sides[0], finished.models)
