"""Hyper-parameters of matched modules, side by side: what tensors don't show and outputs depend on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torchgraft.core.places import modules
from torchgraft.core.plan import Plan
from torchgraft.core.results.verification import SettingDifference
from torchgraft.core.types import Module

# What libraries call the same setting: torch.nn, timm, torchvision and transformers, as their public code names it.
SETTINGS = {
    "eps": ("eps", "variance_epsilon", "layer_norm_eps", "epsilon"), "momentum": ("momentum",), "stride": ("stride",),
    "dilation": ("dilation",), "groups": ("groups",), "padding": ("padding",), "padding_mode": ("padding_mode",),
    "num_groups": ("num_groups",), "kernel_size": ("kernel_size",), "output_padding": ("output_padding",),
    "ceil_mode": ("ceil_mode",), "count_include_pad": ("count_include_pad",), "negative_slope": ("negative_slope",),
    "approximate": ("approximate",), "alpha": ("alpha",),
    "heads": ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads"),
    "key heads": ("num_key_value_heads", "num_kv_heads", "n_kv_heads"), "scale": ("scale", "scaling"),
    "rotary base": ("rope_theta", "rotary_base", "theta"), "normalize_before": ("norm_first", "normalize_before"),
    "dropout": ("p", "drop_prob"), "max_norm": ("max_norm",), "padding_idx": ("padding_idx",), "mode": ("mode",),
    "align_corners": ("align_corners",), "scale_factor": ("scale_factor",),
}  # fmt: skip
# What has no effect in evaluation mode.
QUIET = frozenset({"momentum", "dropout", "padding_idx"})
_IDLE = frozenset({"training", "inplace"})
# Sizes that shapes of tensors show: what the plan makes of them is no difference in how the two compute.
_SIZES = frozenset(
    ["in_features", "out_features", "in_channels", "out_channels", "num_features", "num_embeddings", "embedding_dim"]
)
# Classes of activation functions; anything else without tensors is compared by its settings alone.
_ACTIVATIONS = frozenset({
    "ReLU", "ReLU6", "GELU", "SiLU", "Mish", "LeakyReLU", "ELU", "CELU", "SELU", "Hardswish", "Hardsigmoid",
    "Hardtanh", "Sigmoid", "Tanh", "Softplus", "PReLU", "GLU", "NewGELUActivation", "FastGELUActivation",
    "QuickGELUActivation", "QuickGELU", "GELUActivation", "GELUTanh", "PytorchGELUTanh", "GELUTanhActivation",
    "SiLUActivation", "Swish", "HardSwish", "HardSigmoid", "SquaredReLU",
})  # fmt: skip
# Other names of the same function.
_ALIASES = {
    "SiLUActivation": "SiLU", "Swish": "SiLU", "HardSwish": "Hardswish", "HardSigmoid": "Hardsigmoid",
    "GELUActivation": "GELU", "QuickGELUActivation": "QuickGELU",
}  # fmt: skip


class ModulePair(NamedTuple):
    """Two modules that hold corresponding tensors, or modules around such: dotted paths."""

    target: str
    source: str


class Compared(NamedTuple):
    """The settings in which modules differ, and the pairs of modules that were compared."""

    settings: tuple[SettingDifference, ...] = ()
    pairs: tuple[ModulePair, ...] = ()


def compare_settings(target: Module, source: Module, plan: Plan) -> Compared:
    """Return the settings in which modules differ that the plan matches.

    Modules match when the plan fills tensors of one from tensors of the other; the modules around them, and those
    without tensors beside them (activations, pooling), follow from these. Nothing is run.
    """
    ours, theirs = dict(modules(target)), dict(modules(source))
    pairs = _pairs(plan, ours, theirs)
    pairs += _beside(pairs, ours, theirs)
    found = [one for pair in pairs for one in _compared(pair, ours[pair.target], theirs[pair.source])]
    return Compared(tuple(dict.fromkeys(found)), tuple(pairs))


def _pairs(plan: Plan, ours: Mapping[str, Module], theirs: Mapping[str, Module]) -> list[ModulePair]:
    """Return modules that share tensors by the plan, and the modules around them; each of the target's once."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for step in plan.steps:
        for feed in step.feeds:
            mine, other = step.slot.owner, feed.key.rpartition(".")[0]
            while mine in ours and other in theirs:
                votes[mine][other] += 1
                if not mine or not other:
                    break
                mine, other = mine.rpartition(".")[0], other.rpartition(".")[0]
    out = [ModulePair(path, votes[path].most_common(1)[0][0]) for path in ours if path in votes]
    if "" not in votes:
        out.insert(0, ModulePair("", ""))
    return out


def _beside(pairs: list[ModulePair], ours: Mapping[str, Module], theirs: Mapping[str, Module]) -> list[ModulePair]:
    """Return pairs of modules without tensors, in order, within matched modules that have equally many of a sort."""
    out: list[ModulePair] = []
    for pair in pairs:
        mine, other = (_bare(path, side) for path, side in ((pair.target, ours), (pair.source, theirs)))
        for sort in mine:
            if len(mine[sort]) == len(other.get(sort, ())):
                out.extend(ModulePair(a, b) for a, b in zip(mine[sort], other[sort], strict=True))
    return out


def _bare(path: str, side: Mapping[str, Module]) -> dict[str, list[str]]:
    """Return the children without tensors of a module, by sort."""
    out: defaultdict[str, list[str]] = defaultdict(list)
    for name, child in side[path]._modules.items():  # noqa: SLF001
        if child is None or child._modules or child._parameters or child._buffers:  # noqa: SLF001
            continue
        kind = type(child).__name__
        if kind == "Identity":
            continue
        out["activation" if kind in _ACTIVATIONS else kind].append(f"{path}.{name}" if path else name)
    return out


def _compared(pair: ModulePair, target: Module, source: Module) -> Iterator[SettingDifference]:
    for name, spellings in SETTINGS.items():
        mine, other = _said(target, spellings), _said(source, spellings)
        if mine is not None and other is not None and not _equal(mine, other):
            yield _difference(pair, name, mine, other, matters=name not in QUIET)
    kinds = [_ALIASES.get(type(m).__name__, type(m).__name__) for m in (target, source)]
    if kinds[0] != kinds[1] and all(k in _ACTIVATIONS for k in kinds):
        yield _difference(pair, "activation", kinds[0], kinds[1])
    if type(target) is type(source):
        yield from _same_class(pair, target, source)


def _same_class(pair: ModulePair, target: Module, source: Module) -> Iterator[SettingDifference]:
    """Yield all other plain attributes in which two modules of one class differ."""
    known = {spelling for spellings in SETTINGS.values() for spelling in spellings}
    mine, other = target.__dict__, source.__dict__
    for name, value in mine.items():
        if name in known or name.startswith("_") or name in _IDLE | _SIZES or name not in other:
            continue
        if isinstance(value, (bool, int, float, str)) and isinstance(other[name], (bool, int, float, str)):
            if value != other[name]:
                yield _difference(pair, name, value, other[name])
        elif _is_function(value) and _is_function(other[name]) and _function(value) != _function(other[name]):
            yield _difference(pair, name, _function(value), _function(other[name]))


def _difference(pair: ModulePair, name: str, mine: object, other: object, *, matters: bool = True) -> SettingDifference:
    where = {"module": pair.target, "source_module": pair.source}
    return SettingDifference(name=name, target=mine, source=other, matters=matters, **where)


def _said(module: Module, spellings: tuple[str, ...]) -> object:
    own = module.__dict__
    for name in spellings:
        value = own.get(name)
        if isinstance(value, (bool, int, float, str)) or (isinstance(value, tuple) and _is_plain(value)):
            return value
    return None


def _is_plain(value: tuple[object, ...]) -> bool:
    return all(isinstance(item, (bool, int, float, str)) for item in value)


def _equal(a: object, b: object) -> bool:
    """Whether two settings mean the same: 3 is (3, 3)."""
    a, b = (value if isinstance(value, tuple) else (value,) for value in (a, b))
    if len(a) == 1 or len(b) == 1:
        return set(a) == set(b)
    return a == b


def _is_function(value: object) -> bool:
    return callable(value) and hasattr(value, "__name__")


def _function(value: object) -> str:
    return str(getattr(value, "__name__", value))
