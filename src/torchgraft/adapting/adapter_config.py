"""What the configuration of adapters says of them: their scale, and whether they are added to the weights that the model has.

It is adapter_config.json, or what diffusers writes into the file itself, where that of each network has its name in front.
"""

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
    for one in _by_network(config).values() if isinstance(config, Mapping) else ():
        _expect_plain(one)


def _by_network(config: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Return the configuration of each network by its name, "" for one that is for all: `unet.lora_alpha` is that of `unet`."""
    found: dict[str, dict[str, object]] = {"": {}}
    for key, value in config.items():
        network, _, name = str(key).rpartition(".")
        found.setdefault(network, {})[name] = value
    return found


def _expect_plain(config: Mapping[str, object]) -> None:
    """Expect it of the configuration for one network."""
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_SPLIT_BASES):
        raise UsageError(
            f"the configuration of the adapters says init_lora_weights {printable(repr(start))}: these were trained beside "
            "what was left of each weight when a part of it was taken out, and don't go with the weights as they were; "
            f"{_MERGE_THERE}"
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
            f"the configuration of the adapters says {strange}: that is no product to be added to a layer's weight; {_MERGE_THERE}"
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
            f"{printable(stem)} has no alpha in the file, and no adapter_config.json lies beside it: {REMEDY} as in training "
            "(diffusers takes 1 for such a file)"
        )
    network, _, inner = stem.partition(".")
    own = _by_network(config)
    config, stem = (own[network], inner) if network in own else (own[""], stem)
    alpha = _alpha(stem, config)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not isfinite(alpha):
        raise UsageError(
            f"the configuration of the adapters says no number for lora_alpha of {printable(stem)}: {REMEDY}"
        )
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
            raise UsageError(
                f"the configuration of the adapters: alpha_pattern {printable(str(pattern))} is no plain name: {REMEDY}"
            )
        if module == end or (not str(pattern).startswith("^") and module.endswith("." + end)):
            return alpha
    return config.get("alpha" if config.get("peft_type") == "LOHA" else "lora_alpha")
