"""What the names of adapters say: which module they belong to, and what of it they are."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torchgraft.core.names import without_common_end

# What the last segments of a tensor's name mean; `default` and other names of an adapter may stand behind them.
PARTS = {
    "lora_down": "down", "lora_A": "down", "lora_embedding_A": "down", "lora_up": "up", "lora_B": "up",
    "lora_embedding_B": "up", "lora_a": "down", "lora_b": "up", "alpha": "alpha",
    "lora_magnitude_vector": "magnitude", "dora_scale": "magnitude", "magnitude": "magnitude",
    "hada_w1_a": "up", "hada_w1_b": "down", "hada_w2_a": "up 2", "hada_w2_b": "down 2",
}  # fmt: skip
# What older versions of diffusers write: factors with a dot, and before that in the processor of an attention, beside the
# name of the layer; `to_out` is a list of which the first is the layer (diffusers' DIFFUSERS_OLD_TO_PEFT).
_DOTTED = re.compile(r"(?<=\.)lora\.(down|up)(?=\.)")
_IN_PROCESSOR = re.compile(r"(?:\.processor)?\.(to_\w+)_lora\.(down|up)(?=\.)")
# What its name shows to belong to an adapter, whether it can be merged or not.
_ADAPTERS = re.compile(
    r"(?:^|\.)(?:lora[_.]|hada_|lokr_|oft_|boft_|dora_|ia3_|vera_lambda_|randlora_|token_adapter\.|trainable_tokens_)"
    r"|_lora\.(?:down|up)\."
)
OTHER_ADAPTERS = (
    "of a kind that isn't merged here (LoRA, DoRA and LoHa are): merge this file with the library that wrote it"
)


def network_of(stem: str) -> str:
    """Return the network that a module belongs to in a file for several: `unet` of `unet.mid.conv`, `lora_te1` of `lora_te1_text_model`."""
    first = stem.partition(".")[0]
    return "_".join(first.split("_")[:2]) if "." not in stem else first


def adapted_network(key: str) -> str:
    """Return the network that a tensor of an adapter is for, as the file calls it."""
    return network_of(split_key(key)[0])


def is_adapter(key: str) -> bool:
    """Whether the name says that a tensor belongs to an adapter."""
    return _ADAPTERS.search(key) is not None


def are_mergeable(keys: Iterable[str]) -> bool:
    """Whether any of the names is that of a factor of an adapter that can be merged."""
    return any(split_key(key)[1] == "down" for key in keys)


def split_key(key: str) -> tuple[str, str]:
    """Return the adapted module, and what part of its adapter the tensor is; an empty part for all other tensors."""
    plain = _IN_PROCESSOR.sub(lambda m: f".{m[1]}{'.0' * (m[1] == 'to_out')}.lora_{m[2]}", key)
    segments = _DOTTED.sub(r"lora_\1", plain).split(".")
    for at in range(len(segments) - 1, max(len(segments) - 4, 0), -1):
        part = PARTS.get(segments[at])
        if part and all(s != "bias" for s in segments[at + 1 :]):
            return ".".join(segments[:at]), part
    return key, ""


def meant_by(module: str, layers: Iterable[str]) -> str:
    """Return the rule of `rename` that may be meant where no layer has an adapted module's name, "" where nothing tells.

    It leads to the one layer whose name has most of the module's end, and of those most of its other words.
    """
    ranked: dict[tuple[int, int], list[str]] = {}
    for layer in layers:
        ours, theirs = (rest.split(".") for rest in without_common_end(module, layer))
        ranked.setdefault((-len(ours), len({*ours} & {*theirs})), []).append(layer)
    best = max(ranked, default=(0, 0))
    if not best[1] or len(ranked[best]) > 1:
        return ""
    old, new = without_common_end(module, ranked[best][0])
    is_numbered = any(map(str.isdecimal, (*old.split("."), *new.split("."))))  # it would be of one block alone
    return "" if is_numbered else f"rename={ {old: new} }"
