"""Low-rank adapters merged into the weights of the model, on request.

PEFT files: `base_model.model.<module>.lora_A.weight` and `lora_B` (`lora_embedding_A` and `B` of tables), with the scale in
adapter_config.json. Files of the kohya tools: `lora_unet_<module with _ for .>.lora_down.weight`, `lora_up` and a scalar
`alpha` (scale alpha / rank). DoRA adds a magnitude for each row, LoHa multiplies two products.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial

from torchgraft.adapting.adapter_config import expect_plain_base, stated_scale
from torchgraft.adapting.adapter_names import OTHER_ADAPTERS, is_adapter, meant_by, network_of, split_key
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.grounds import Ground
from torchgraft.core.names import wrappers
from torchgraft.core.plan import Certainty, Doubt, Feed, Op, Step, Unused, Why
from torchgraft.core.specs import Network, Slot, Target, TensorSpec
from torchgraft.ops import DoraMerge, LohaMerge, LoraMerge, Transpose

# Modules whose weight is stored [in, out]. Of tables PEFT keeps the factors turned likewise, and says so in their names.
TURNED = frozenset({"Conv1D"})
# Where a file holds the weight that the adapter belongs to as well, behind the name of the module.
BASES = (".base_layer.weight", ".weight")
# What else such a file may hold of a module with an adapter: what the layer is without it.
_OF_THE_LAYER = (".base_layer.", ".weight", ".bias")
# A module that was trained as a whole beside the adapters, under the name of an adapter; what it was before lies beside it.
_TRAINED = re.compile(r"(?P<stem>.*)\.modules_to_save\.[^.]+\.(?P<role>.*)")
_BEFORE = ".original_module."
ORDER = ("up", "down", "up 2", "down 2", "magnitude", "alpha")


# From a key to the names that the caller's rules give it.
Names = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Adapter:
    """The keys of one adapted module by what they are."""

    stem: str
    keys: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scales:
    """What adapters are multiplied by where the file holds no alpha: `given` by the caller, or else what `config` says.

    `given` is lora_alpha / r, `config` the content of adapter_config.json.
    """

    given: float | None = None
    config: object = None

    @classmethod
    def said(cls, merge_lora: float, metadata: Mapping[str, object]) -> Scales:
        """Return what the caller says with `merge_lora`, or else what lies beside the tensors."""
        return cls(None if merge_lora is True else float(merge_lora), metadata.get("adapter_config"))

    def expect_used(self, adapters: Sequence[Adapter]) -> None:
        """Expect that a scale of the caller's is for one of the adapters.

        Raises:
            UsageError: the file says the scale of all of them.
        """
        if self.given is not None and adapters and all("alpha" in adapter.keys for adapter in adapters):
            raise UsageError(
                f"merge_lora={self.given:g} says a scale, and the file says that of each adapter, as alpha / rank: give "
                "merge_lora=True, which takes the file's"
            )

    def of(self, adapter: Adapter, rank: int) -> float:
        """Return the scale of an adapter, beside its own alpha.

        Raises:
            UsageError: nothing says it.
        """
        if "alpha" in adapter.keys:
            return 1.0
        return stated_scale(adapter.stem, rank, self.config) if self.given is None else self.given


def lora_steps(network: Network, target: Target, scales: Scales, names: Names) -> dict[str, Step]:
    """Return a merging step for each weight of the model that an adapter is added to, and that the file doesn't hold as well.

    Adapters are placed by names alone, `names` being those that the caller's rules give to a key; one that they give none is
    left out. Files for several networks, a denoiser and its text encoders, hold nothing for the model from those that it is
    not.

    Raises:
        UsageError: the file holds no adapter, or one of another kind, or adapts a module that the model lacks; the scale
            is unknown; or the model has no values yet that an adapter could be added to.
    """
    specs = network.specs
    expect_plain_base(scales.config)
    adapters = adapters_in(specs)
    if not adapters:
        others = f": {OTHER_ADAPTERS}" if any(map(is_adapter, specs)) else ""
        raise UsageError(
            f"merge_lora was asked for, but the checkpoint holds no lora_A/lora_B, lora_down/lora_up or hada tensors{others}"
        )
    scales.expect_used(adapters)
    shown = {
        split_key(name)[0]: adapter
        for adapter in adapters
        if base_of(adapter, specs) is None
        for name in names(adapter.keys["down"])
    }
    weights = {name: slot for slot in target.slots if len(slot.spec.shape) > 1 for name in slot.names}
    places = _places(list(shown), [name for name in weights if name.endswith("weight")])
    _expect_places(shown, places, [name.removesuffix(".weight") for name in weights])
    steps = {}
    for stem, name in places.items():
        step = _step(shown[stem], weights[name], network, scales)
        if target.is_meta:
            raise UsageError(
                f"the adapters belong to weights that neither the file nor the model has ({printable(name)} is on the meta "
                "device): load the weights first, and then the adapters"
            )
        steps[step.slot.name] = doubted_where_tied(step, name, target)
    return _trained_modules(specs, target, network.path) | steps


def _expect_places(shown: Mapping[str, Adapter], places: Mapping[str, str], layers: Sequence[str]) -> None:
    """Raise UsageError where an adapter for this model, of these layers, has no place in it.

    Those for other networks are left alone.
    """
    lost = {stem: adapter.stem for stem, adapter in shown.items() if stem not in places}
    known = {network_of(shown[stem].stem) for stem in places} or {network_of(own) for own in lost.values()}
    if not any(network_of(own) in known for own in lost.values()):
        return
    which = "1 adapted module is" if len(lost) == 1 else f"{len(lost)} adapted modules are"
    stem, own = next(iter(lost.items()))
    perhaps = f", perhaps {rule}," if (rule := meant_by(stem, layers)) else ""
    named = printable(own) + (f", as {printable(stem)}" if stem != own else "")
    raise UsageError(
        f"{which} not in the model (or not unique there), e.g. {named}: adapters alone are placed by their names; say with "
        f"rename= what the model calls these modules{perhaps} and with layers= which layers it has, or leave "
        "these tensors out of the checkpoint"
    )


def _trained_modules(specs: Mapping[str, TensorSpec], target: Target, network: str) -> dict[str, Step]:
    """Return a copying step for each tensor of a module that was trained as a whole, in place of what it was before.

    None where there are several, or the model's has another shape: these are matched as all others are.
    """
    found: dict[str, list[str]] = {}
    for key in specs:
        if trained := _TRAINED.fullmatch(key):
            found.setdefault(f"{trained['stem']}.{trained['role']}".removesuffix(".weight"), []).append(key)
    slots = {name: slot for slot in target.slots for name in slot.names}
    places = _places([stem for stem, keys in found.items() if len(keys) == 1], list(slots)) if found else {}
    steps = {}
    for stem, name in places.items():
        slot, (key,) = slots[name], found[stem]
        if slot.spec.shape == specs[key].shape:
            why = Why(Ground.ADAPTER, "trained as a whole beside the adapters")
            steps[slot.name] = Step(slot=slot, feeds=(Feed(key, (), network),), why=why)
    return steps


def with_reason_of_training(unused: tuple[Unused, ...], steps: Iterable[Step]) -> tuple[Unused, ...]:
    """Return unused tensors; those of a module before it was trained as a whole get that as their reason."""
    before = [one for one in unused if _BEFORE in one.spec.name]
    fed = [feed.key for step in steps for feed in step.feeds] if before else []
    stems = tuple(found["stem"] + _BEFORE for key in fed if (found := _TRAINED.fullmatch(key)))
    why = Why(Ground.NO_COUNTERPART, "it was trained since, and what came of it is in its place")
    return (
        tuple(replace(one, why=why) if one.spec.name.startswith(stems) else one for one in unused) if stems else unused
    )


def doubted_where_tied(step: Step, name: str, target: Target) -> Step:
    """Return the step, in doubt where the weight is tied to a module of another kind, which had no adapter."""
    kind = target.classes.get(name.rpartition(".")[0])
    others = [other for other in step.slot.names if target.classes.get(other.rpartition(".")[0]) != kind]
    if not others:
        return step
    doubt = (
        f"the adapter was trained for {printable(name)}, and would change {printable(others[0])} as well, which is the same "
        "tensor; untie them before"
    )
    return replace(step, certainty=Certainty.DOUBT, why=step.why.in_doubt(Doubt("adapter_on_tied", doubt)))


def adapters_in(specs: Mapping[str, TensorSpec]) -> list[Adapter]:
    """Return the adapters of a file, each whole.

    Raises:
        UsageError: a tensor that is part of an adapter can't be merged.
    """
    found: dict[str, Adapter] = {}
    taken: set[str] = set()
    for key in specs:
        stem, part = split_key(key)
        if part:
            found.setdefault(stem, Adapter(stem)).keys[part] = key
    whole = [
        a for a in found.values() if {"up", "down"} <= a.keys.keys() and ("up 2" in a.keys) == ("down 2" in a.keys)
    ]
    taken.update(key for adapter in whole for key in adapter.keys.values())
    strange = [key for key in specs if is_adapter(key) and key not in taken]
    if whole and strange:
        raise UsageError(
            f"{len(strange)} tensors of adapters can't be merged, e.g. {printable(strange[0])}: LoRA, DoRA and LoHa can be; "
            "merge this file with the library that wrote it"
        )
    _expect_no_more({adapter.stem for adapter in whole if base_of(adapter, specs) is None}, specs, taken)
    return whole


def _expect_no_more(stems: AbstractSet[str], specs: Mapping[str, TensorSpec], taken: Container[str]) -> None:
    """Raise UsageError where a module with an adapter, and without a weight in the file, has further tensors."""
    for key in specs if stems else ():
        at = -1 if key in taken else key.find(".")
        while at >= 0:
            if key[:at] in stems and not key[at:].startswith(_OF_THE_LAYER):
                raise UsageError(
                    f"{printable(key)} is beside the adapter of {printable(key[:at])}, and is no part of one that can be "
                    "merged: merge this file with the library that wrote it, or leave this tensor out of the checkpoint"
                )
            at = key.find(".", at + 1)


def _places(stems: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return module stem -> weight: by the longest common run of whole segments, dots or underscores alike.

    What the whole model is wrapped in may be missing in the stems.
    """
    places = _placed(stems, names, "")
    for wrapper in wrappers(names) if len(places) < len(stems) else ():
        places = max(places, _placed(stems, names, wrapper), key=len)
    return places


def _placed(stems: Sequence[str], names: Sequence[str], wrapper: str) -> dict[str, str]:
    """Return module stem -> weight for names without `wrapper`, which is in front of all of them.

    What stands in front of the model's names, if anything, is one for all modules of a network: in a model that has `up` and no
    `block.up`, an adapter of the latter is lost.
    """
    flat: dict[str, list[str]] = {}
    for name in names:
        path = name.removeprefix(wrapper).removesuffix(".weight").replace(".", "_")
        flat.setdefault(path, []).append(name)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for stem in stems:
        spelled = stem.replace(".", "_")
        cuts = [0, *(at + 1 for at, c in enumerate(spelled) if c == "_")]
        cut, hits = next(((at, flat[spelled[at:]]) for at in cuts if spelled[at:] in flat), (0, []))
        if len(hits) == 1:
            found.setdefault(network_of(stem), {}).setdefault(spelled[:cut], {})[stem] = hits[0]
    places: dict[str, str] = {}
    for one in found.values():
        places |= one.pop("", {})
        ranked = sorted(one.values(), key=len)
        if ranked and (len(ranked) == 1 or len(ranked[-1]) > len(ranked[-2])):
            places |= ranked[-1]
    count = Counter(places.values())
    return {stem: name for stem, name in places.items() if count[name] == 1}


def _step(adapter: Adapter, slot: Slot, network: Network, scales: Scales) -> Step:
    """Return what adds an adapter to the model's own weight."""
    merging = merge_of(adapter, slot.spec, network, scales, turned=slot.kind in TURNED)
    text = f"rank {merging.rank}, added to the model's own weight{merging.how}"
    return Step(slot=slot, feeds=merging.feeds, ops=(merging.op,), base=True, why=Why(Ground.ADAPTER, text))


@dataclass(frozen=True, slots=True)
class Merging:
    """What is read of an adapter, and the op that adds it to a weight; its rank, and where its scale is from."""

    feeds: tuple[Feed, ...]
    op: Op
    rank: int
    how: str


def merge_of(adapter: Adapter, base: TensorSpec, network: Network, scales: Scales, *, turned: bool) -> Merging:
    """Return how an adapter is added to a weight like `base`, which is `turned` where it is stored [in, out].

    Raises:
        UsageError: it doesn't fit, or its scale is unknown.
    """
    parts = [part for part in ORDER if part in adapter.keys]
    kind: Callable[[float], Op] = LohaMerge if "up 2" in parts else LoraMerge
    if "magnitude" in parts and "up 2" not in parts:
        kind = partial(DoraMerge, dim=_magnitude_dim(adapter.keys["magnitude"], network.specs))
    turned = turned or "lora_embedding_A" in adapter.keys["down"].split(".")
    if turned and len(parts) - ("alpha" in parts) > 2:
        raise UsageError(f"{printable(adapter.stem)}: only plain LoRA can be merged into a weight stored [in, out]")
    specs = network.specs
    feeds = [Feed(adapter.keys[part], (), network.path) for part in parts]
    if turned:
        # W stored [in, out] gets (B A)^T = A^T B^T.
        up, down = (Feed(feed.key, (Transpose(),), network.path) for feed in feeds[:2])
        feeds[:2] = [down, up]
    rank = specs[adapter.keys["down"]].shape[0]
    op = kind(scales.of(adapter, rank))
    op.out_spec([base, *(_through(feed, specs[feed.key]) for feed in feeds)])
    how = ", scale alpha / rank" if "alpha" in parts else ""  # else the op says it
    return Merging(tuple(feeds), op, rank, how)


def _magnitude_dim(key: str, specs: Mapping[str, TensorSpec]) -> int:
    """Return the dimension of a weight along which magnitudes are kept: 0, or 1 where LyCORIS trains by input channels.

    PEFT has [out], and [1, out, 1, 1] of convolutions; LyCORIS [out, 1, ...], or [1, in, ...].
    """
    shape = specs[key].shape
    return int(key.endswith("dora_scale") and len(shape) > 1 and shape[0] == 1 != shape[1])


def base_of(adapter: Adapter, specs: Mapping[str, TensorSpec]) -> str | None:
    """Return the weight in the file that an adapter is to be added to; None where the file holds but the adapter."""
    return next((key for end in BASES if (key := adapter.stem + end) in specs), None)


def _through(feed: Feed, spec: TensorSpec) -> TensorSpec:
    for op in feed.ops:
        spec = op.out_spec([spec])
    return spec
