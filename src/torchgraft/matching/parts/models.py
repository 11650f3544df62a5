"""What is known of the two models besides their tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchgraft.core.specs import Target
from torchgraft.matching.tables.stated import Stated


@dataclass(frozen=True, slots=True)
class Models:
    """The model to fill, the one that the checkpoint was saved from where that is at hand, and what the caller says."""

    target: Target
    source: Target | None = None
    stated: Stated = field(default_factory=Stated)

    def source_heads(self, path: str) -> int | None:
        """Return the number of attention heads at a path of the source.

        Without the source's model it is that of the model to fill, if all its attention modules have the same: other
        numbers would make other outputs.
        """
        if self.source is not None:
            return self.source.heads_at(path)
        counts = set(self.target.heads.values())
        return counts.pop() if len(counts) == 1 else None
