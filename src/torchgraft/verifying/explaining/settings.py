"""Hyper-parameters of matched modules, side by side: what tensors don't show and outputs depend on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torchgraft.core.places import modules
from torchgraft.core.plan import Plan
from torchgraft.core.results.verification import SettingDifference
from torchgraft.core.types import Module

# What libraries call the same setting: torch.nn, timm, torchvision and transformers, as their public code names it.
SPELLINGS = {
    "eps": ("eps", "variance_epsilon", "layer_norm_eps", "epsilon"), "momentum": ("momentum",), "stride": ("stride",),
    "dilation": ("dilation",), "groups": ("groups",), "padding": ("padding",), "padding_mode": ("padding_mode",),
    "num_groups": ("num_groups",), "kernel_size": ("kernel_size",), "output_padding": ("output_padding",),
    "ceil_mode": ("ceil_mode",), "count_include_pad": ("count_include_pad",), "negative_slope": ("negative_slope",),
    "approximate": ("approximate",), "alpha": ("alpha",),
    "heads": ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads"),
    "key heads": ("num_key_value_heads", "num_kv_heads", "n_kv_heads"), "scale": ("scale", "scaling"),
    "rotary base": ("rope_theta", "rotary_base", "theta"), "normalize_before": ("norm_first", "normalize_before"),
    "max_norm": ("max_norm",), "padding_idx": ("padding_idx",), "mode": ("mode",),
    "align_corners": ("align_corners",), "scale_factor": ("scale_factor",),
}  # fmt: skip
_IGNORED_ATTRIBUTES = frozenset({"training", "inplace"})
# Sizes that shapes of tensors show: what the plan makes of them is no difference in how the two compute.
_SIZE_ATTRIBUTES = frozenset(
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


class ComparedSettings(NamedTuple):
    """The settings in which modules differ, and the pairs of modules that were compared."""

    differences: tuple[SettingDifference, ...] = ()
    pairs: tuple[ModulePair, ...] = ()


def compare_settings(target: Module, source: Module, plan: Plan) -> ComparedSettings:
    """Return the settings in which modules differ that the plan matches.

    Modules match when the plan fills tensors of one from tensors of the other; the modules around them, and those
    without tensors beside them (activations, pooling), follow from these. Nothing is run.
    """
    targets, sources = dict(modules(target)), dict(modules(source))
    pairs = _matched_modules(plan, targets, sources)
    pairs += _modules_without_tensors(pairs, targets, sources)
    found = [one for pair in pairs for one in _differences(pair, targets[pair.target], sources[pair.source])]
    return ComparedSettings(tuple(dict.fromkeys(found)), tuple(pairs))


def _matched_modules(plan: Plan, targets: Mapping[str, Module], sources: Mapping[str, Module]) -> list[ModulePair]:
    """Return modules that share tensors by the plan, and the modules around them; each of the target's once."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for step in plan.steps:
        for feed in step.feeds:
            path, source_path = step.slot.owner, feed.key.rpartition(".")[0]
            while path in targets and source_path in sources:
                votes[path][source_path] += 1
                if not path or not source_path:
                    break
                path, source_path = path.rpartition(".")[0], source_path.rpartition(".")[0]
    out = [ModulePair(path, votes[path].most_common(1)[0][0]) for path in targets if path in votes]
    if "" not in votes:
        out.insert(0, ModulePair("", ""))
    return out


def _modules_without_tensors(
    pairs: list[ModulePair], targets: Mapping[str, Module], sources: Mapping[str, Module]
) -> list[ModulePair]:
    """Return pairs of modules without tensors, in order, within matched modules that have equally many of a class."""
    out: list[ModulePair] = []
    for pair in pairs:
        source_paths = _children_without_tensors(pair.source, sources)
        for kind, paths in _children_without_tensors(pair.target, targets).items():
            if len(paths) == len(source_paths.get(kind, ())):
                out.extend(map(ModulePair, paths, source_paths[kind]))
    return out


def _children_without_tensors(path: str, side: Mapping[str, Module]) -> dict[str, list[str]]:
    """Return paths of the children without tensors of a module, by class; all activations together."""
    out: defaultdict[str, list[str]] = defaultdict(list)
    for name, child in side[path]._modules.items():  # noqa: SLF001
        if child is None or child._modules or child._parameters or child._buffers:  # noqa: SLF001
            continue
        kind = type(child).__name__
        if kind != "Identity":
            out["activation" if kind in _ACTIVATIONS else kind].append(f"{path}.{name}" if path else name)
    return out


def _differences(pair: ModulePair, target: Module, source: Module) -> Iterator[SettingDifference]:
    for name, spellings in SPELLINGS.items():
        values = _setting(target, spellings), _setting(source, spellings)
        if None not in values and not _equal(*values):
            yield _difference(pair, name, *values, matters=not _is_for_training_alone(name, values, target))
    if functions := other_activations(type(target).__name__, type(source).__name__):
        yield _difference(pair, "activation", *functions)
    if type(target) is type(source):
        yield from _other_attributes(pair, target, source)


def other_activations(target: str, source: str) -> tuple[str, str] | None:
    """Return which functions two classes of modules apply, where both are activation functions, and not the same one."""
    functions = _ALIASES.get(target, target), _ALIASES.get(source, source)
    known = all(function in _ACTIVATIONS for function in functions)
    return functions if known and functions[0] != functions[1] else None


def _other_attributes(pair: ModulePair, target: Module, source: Module) -> Iterator[SettingDifference]:
    """Yield all other plain attributes in which two modules of one class differ."""
    known = {spelling for spellings in SPELLINGS.values() for spelling in spellings}
    others = source.__dict__
    for name, value in target.__dict__.items():
        if name in known or name.startswith("_") or name in _IGNORED_ATTRIBUTES | _SIZE_ATTRIBUTES:
            continue
        values = [_plain_or_function_name(one) for one in (value, others.get(name))]
        if None not in values and _is_plain(value) == _is_plain(others[name]) and values[0] != values[1]:
            yield _difference(pair, name, *values, matters=not _is_for_training_alone(name, values, target))


def _is_for_training_alone(name: str, values: Sequence[object], module: Module) -> bool:
    """Return whether a setting has no effect in evaluation mode.

    A name of several meanings doesn't show that by itself: `p` is the power of a pooling as well as a probability.
    """
    from torch import nn

    if name == "momentum":
        return hasattr(module, "running_mean")
    if name == "padding_idx":
        return type(module).forward is nn.Embedding.forward
    return "drop" in name or (name == "p" and all(isinstance(p, (int, float)) and 0 <= p < 1 for p in values))


def _difference(
    pair: ModulePair, name: str, target: object, source: object, *, matters: bool = True
) -> SettingDifference:
    return SettingDifference(
        name=name, module=pair.target, source_module=pair.source, target=target, source=source, matters=matters
    )


def _setting(module: Module, spellings: tuple[str, ...]) -> object:
    """Return the first of these attributes that is a plain value or a tuple of such, None if none is."""
    for name in spellings:
        value = module.__dict__.get(name)
        if _is_plain(value) or (isinstance(value, tuple) and all(map(_is_plain, value))):
            return value
    return None


def _is_plain(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


def _plain_or_function_name(value: object) -> object:
    """Return a plain value as it is, the name of a function, and None for all else."""
    if _is_plain(value):
        return value
    return str(getattr(value, "__name__", "")) or None if callable(value) else None


def _equal(a: object, b: object) -> bool:
    """Whether two settings mean the same: 3 is (3, 3)."""
    a, b = (value if isinstance(value, tuple) else (value,) for value in (a, b))
    if len(a) == 1 or len(b) == 1:
        return set(a) == set(b)
    return a == b
