"""Low-rank adapters merged into the weights of the model, on request.

PEFT files: `base_model.model.<module>.lora_A.weight` and `lora_B`, with the scale in adapter_config.json. Files of the
kohya tools: `lora_unet_<module with _ for .>.lora_down.weight`, `lora_up` and a scalar `alpha` (scale alpha / rank).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Feed, Step, Why
from torchgraft.ops import LoraMerge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchgraft.core.specs import Slot, TensorSpec

_DOWN = re.compile(r"(?P<stem>.+)\.(?:lora_down|lora_A)(?:\.(?P<adapter>[^.]+))?\.weight")
_UP = ("lora_up", "lora_B")


@dataclass(frozen=True, slots=True)
class Adapter:
    """The keys of one adapted module."""

    stem: str
    down: str
    up: str
    alpha: str | None


def lora_steps(
    specs: Mapping[str, TensorSpec], slots: Sequence[Slot], network: str, scale: float | None
) -> dict[str, Step]:
    """Return a merging step for each adapted weight. `scale` is lora_alpha / r where the file holds no alpha.

    Raises:
        UsageError: the file holds no adapter, or adapts a module that the model lacks, or the scale is unknown.
    """
    adapters = _adapters(specs)
    if not adapters:
        raise UsageError(
            "merge_lora was asked for, but the checkpoint holds no lora_A/lora_B or lora_down/lora_up tensors"
        )
    weights = {slot.name: slot for slot in slots if slot.role == "weight" and len(slot.spec.shape) > 1}
    places = _places([a.stem for a in adapters], weights)
    lost = [a.stem for a in adapters if a.stem not in places]
    if lost:
        raise UsageError(f"{len(lost)} adapted modules are not in the model (or not unique there), e.g. {lost[0]}")
    bare = [a.stem for a in adapters if a.alpha is None]
    if bare and scale is None:
        raise UsageError(
            f"{bare[0]} has no alpha in the file: give merge_lora=lora_alpha / r as in its adapter_config.json"
        )
    return {places[a.stem]: _step(a, weights[places[a.stem]], specs, network, scale) for a in adapters}


def _adapters(specs: Mapping[str, TensorSpec]) -> list[Adapter]:
    found = []
    for key in specs:
        match = _DOWN.fullmatch(key)
        if match is None:
            continue
        tail = f".{match['adapter']}" if match["adapter"] else ""
        up = next((u for name in _UP if (u := f"{match['stem']}.{name}{tail}.weight") in specs), None)
        if up is not None:
            alpha = match["stem"] + ".alpha"
            found.append(Adapter(match["stem"], key, up, alpha if alpha in specs else None))
    return found


def _places(stems: Sequence[str], weights: Mapping[str, Slot]) -> dict[str, str]:
    """Return module stem -> weight: by the longest common run of whole segments, dots or underscores alike."""
    flat: dict[str, list[str]] = {}
    for name in weights:
        path = name.removesuffix(".weight").replace(".", "_")
        flat.setdefault(path, []).append(name)
    places: dict[str, str] = {}
    for stem in stems:
        spelled = stem.replace(".", "_")
        cuts = [0, *(at + 1 for at, c in enumerate(spelled) if c == "_")]
        hits = next((flat[spelled[at:]] for at in cuts if spelled[at:] in flat), [])
        if len(hits) == 1:
            places[stem] = hits[0]
    twice = {name for name in places.values() if list(places.values()).count(name) > 1}
    return {stem: name for stem, name in places.items() if name not in twice}


def _step(adapter: Adapter, slot: Slot, specs: Mapping[str, TensorSpec], network: str, scale: float | None) -> Step:
    keys = [adapter.up, adapter.down] + ([adapter.alpha] if adapter.alpha else [])
    op = LoraMerge(1.0 if adapter.alpha else float(scale or 1.0))
    op.out_spec([slot.spec, *(specs[key] for key in keys)])
    rank = specs[adapter.down].shape[0]
    how = "alpha / rank" if adapter.alpha else f"{scale:g}"
    return Step(
        slot=slot,
        feeds=tuple(Feed(key, (), network) for key in keys),
        ops=(op,),
        base=True,
        why=Why("adapter", f"rank {rank} adapter added to the model's own weight, scale {how}"),
    )
