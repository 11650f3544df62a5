"""What a reader of one format gives back: the tree of what it found, before networks are looked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torchgraft.reading.finding.catalog import AsIs, Resolve


@dataclass(slots=True, kw_only=True)
class Contents:
    """A format's name, the tree of containers and tensors, and how the tree's tensors become leaves."""

    format: str
    tree: Any
    resolve: Resolve = field(default_factory=AsIs)
    foreign: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
