"""What is known of the two models besides their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchgraft.core.specs import Target


@dataclass(frozen=True, slots=True)
class Models:
    """The model to fill, and the one that the checkpoint was saved from where that is at hand."""

    target: Target
    source: Target | None = None

    def source_heads(self, path: str) -> int | None:
        """Return the number of attention heads at a path of the source.

        Without the source's model it is that of the model to fill, if all its attention modules have the same: other
        numbers would make other outputs.
        """
        if self.source is not None:
            return self.source.heads_at(path)
        counts = set(self.target.heads.values())
        return counts.pop() if len(counts) == 1 else None
