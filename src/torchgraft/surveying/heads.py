"""How many attention heads the modules of a model say they have: by their own attributes, or by their configuration."""

from __future__ import annotations

from collections.abc import Iterable

from torchgraft.core.objects import said_by
from torchgraft.core.types import Module

# What modules and configurations call the number of query heads: torch.nn.MultiheadAttention, timm, torchvision,
# transformers, fairseq, nanoGPT, litgpt, x-transformers and vit-pytorch, as their public code names it.
NAMES = (
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "nhead",
    "nheads",
    "heads",
    "num_query_heads",
    "n_local_heads",
)


def head_counts(walked: Iterable[tuple[str, Module]]) -> dict[str, int]:
    """Return path -> number of heads for the modules that say it."""
    found: dict[str, int] = {}
    configs: dict[int, int | None] = {}
    for path, module in walked:
        own = module.__dict__
        count = None if own.keys().isdisjoint(NAMES) else _count(own)
        config = own.get("config")
        if count is None and config is not None:
            if id(config) not in configs:
                configs[id(config)] = _count(config)
            count = configs[id(config)]
        if count is not None:
            found[path] = count
    return found


def _count(given: object) -> int | None:
    """Return the number that a module's own entries, or a configuration's (properties and aliases, too), tell."""
    for name in NAMES:
        count = said_by(given, name)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return count
    return None
