"""What rules of doubt look at once all is paired: the matching, seen from whole modules, and what it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torchgraft.core.match import Matching, Sides
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.names.said import NOTHING_SAID, Said
from torchgraft.matching.reviewing.module_pairs import ModulePairs
from torchgraft.matching.tables.stated import Models


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished matching; `sides` are all leaves, `keys` the names of the file, `said` what the caller says of places."""

    matching: Matching
    sides: Sides
    naming: Naming
    keys: Iterable[str]
    models: Models
    said: Said = NOTHING_SAID

    @cached_property
    def modules(self) -> ModulePairs:
        """The matches grouped by the modules that they go between."""
        return ModulePairs(self.matching.matches)
