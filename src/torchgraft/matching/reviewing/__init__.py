"""What is said of the pairs of a finished matching, seen from whole modules; no pair is added or taken away.

Each rule of doubt is a function that returns slots, each with the reason; where several hold for a slot, the last is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchgraft.core.match import Leaf, Matching
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.reviewing.exchangeable import exchangeable
from torchgraft.matching.reviewing.fused import with_packings_doubted, with_uncut_told
from torchgraft.matching.reviewing.model_twins import beside_free_twins
from torchgraft.matching.reviewing.module_pairs import ModulePairs
from torchgraft.matching.reviewing.moved_modules import moved_without_word
from torchgraft.matching.reviewing.own_places import passing_own_places
from torchgraft.matching.reviewing.rotary_rows import rows_in_unknown_order
from torchgraft.matching.tables.stated import Models


def reviewed(
    matching: Matching,
    sides: tuple[Sequence[Leaf], Sequence[Leaf]],
    naming: Naming,
    keys: Iterable[str],
    models: Models,
) -> Matching:
    """Return the matching with what speaks against its pairs; `sides` are all leaves, `keys` the names of the file."""
    sources = sides[0]
    matching = with_packings_doubted(matching, sides, models)
    modules = ModulePairs(matching.matches)
    matching = matching.in_doubt(
        {
            **moved_without_word(matching, modules),
            **exchangeable(matching, sides, naming),
            **passing_own_places(matching, modules, naming),
            **({} if naming.homes else beside_free_twins(matching)),
            **rows_in_unknown_order(matching, keys, models),
        }
    )
    return with_uncut_told(matching, sources, models)
