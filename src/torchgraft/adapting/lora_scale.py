"""The scale of low-rank adapters, as PEFT's adapter_config.json says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite, sqrt

from torchgraft.core.errors import UsageError, printable

REMEDY = "give merge_lora=lora_alpha / r"


def stated_scale(stem: str, rank: int, config: object) -> float:
    """Return the scale of an adapter of `rank` at the module `stem`.

    lora_alpha / rank, or lora_alpha / sqrt(rank) with use_rslora (Kalajdzievski, 2023, arXiv:2312.03732); a module that
    alpha_pattern names has an alpha of its own.

    Raises:
        UsageError: the configuration doesn't say it.
    """
    if not isinstance(config, Mapping):
        raise UsageError(
            f"{printable(stem)} has no alpha in the file, and no adapter_config.json lies beside it: {REMEDY} as it says"
        )
    alpha = _alpha(stem, config)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not isfinite(alpha):
        raise UsageError(f"adapter_config.json says no number for lora_alpha of {printable(stem)}: {REMEDY}")
    return alpha / (sqrt(rank) if config.get("use_rslora") is True else rank)


def _alpha(stem: str, config: Mapping[str, object]) -> object:
    """Return the alpha of a module: PEFT reads patterns as ends of module names (or as regular expressions)."""
    patterns = config.get("alpha_pattern")
    for pattern, alpha in patterns.items() if isinstance(patterns, Mapping) else ():
        end = str(pattern).removeprefix("^").replace("\\.", ".")
        if re.search(r"[^\w.\-]", end):
            raise UsageError(f"adapter_config.json: alpha_pattern {printable(str(pattern))} is no plain name: {REMEDY}")
        if stem == end or stem.endswith("." + end):
            return alpha
    return config.get("lora_alpha")
