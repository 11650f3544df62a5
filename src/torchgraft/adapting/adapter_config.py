"""What adapter_config.json says of adapters: their scale, and whether they are added to the weights that the model has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite, sqrt

from torchgraft.core.errors import UsageError, printable

# Ways in which PEFT starts adapters beside changed weights: without the part that the adapter takes over at first.
_SPLIT_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Fields of PEFT's LoraConfig with which a module is more than its weight with the product added to it.
_OTHERWISE = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config", "use_bdlora",
    "use_qalora",
)  # fmt: skip
_PEFT_PREFIX = "base_model.model."
_MERGE_THERE = "merge this file with the library that wrote it"
REMEDY = "give merge_lora=lora_alpha / r"


def expect_plain_base(config: object) -> None:
    """Expect of a configuration that its adapters are added to weights as the model has them, and always.

    Raises:
        UsageError: they belong to other weights, or do something else.
    """
    if not isinstance(config, Mapping):
        return
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_SPLIT_BASES):
        raise UsageError(
            f"adapter_config.json says init_lora_weights {printable(repr(start))}: these adapters were trained beside what was left "
            f"of each weight when a part of it was taken out, and don't go with the weights as they were; {_MERGE_THERE}"
        )
    kind = config.get("peft_type", "LORA")
    strange = next((key for key in _OTHERWISE if config.get(key)), None)
    strange = f"peft_type {printable(repr(kind))}" if kind not in ("LORA", "LOHA") else strange
    parameters = config.get("target_parameters")
    for name in parameters if isinstance(parameters, list) else ():
        if str(name).rpartition(".")[2] != "weight":
            strange = f"target_parameters {printable(repr(name))}"
    if strange:
        raise UsageError(
            f"adapter_config.json says {strange}: that is no product to be added to a layer's weight; {_MERGE_THERE}"
        )


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
    """Return the alpha of a module.

    PEFT reads patterns as ends of module names, as whole names behind a `^`, or as other regular expressions. What LoraConfig
    calls lora_alpha is alpha in LoHaConfig.
    """
    patterns = config.get("alpha_pattern")
    module = stem.removeprefix(_PEFT_PREFIX)
    for pattern, alpha in patterns.items() if isinstance(patterns, Mapping) else ():
        end = str(pattern).removeprefix("^").replace("\\.", ".")
        if re.search(r"[^\w.\-]", end):
            raise UsageError(f"adapter_config.json: alpha_pattern {printable(str(pattern))} is no plain name: {REMEDY}")
        if module == end or (not str(pattern).startswith("^") and module.endswith("." + end)):
            return alpha
    return config.get("alpha" if config.get("peft_type") == "LOHA" else "lora_alpha")
