"""Stored tensors seen as the weight that they stand for: parametrized and packed ones, and kernels with more axes as matrices.

Flax's DenseGeneral and Keras' EinsumDense keep the kernel of a query as [in, heads, size of a head], with a bias
[heads, size of a head], and that of the way back as [heads, size of a head, out]; inputs come first in both:
https://flax-linen.readthedocs.io/en/latest/_modules/flax/linen/attention.html
https://github.com/keras-team/keras/blob/master/keras/src/layers/attention/multi_head_attention.py
GPT-2's own code keeps the layers of its blocks as [1, in, out]: https://github.com/openai/gpt-2/blob/master/src/model.py
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from torchgraft.core.dtypes import DType
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.packing import QKV

KERNEL = "kernel"
BIASES = {KERNEL: "bias", "w": "b"}
PROJECTIONS = frozenset(QKV)
# What torch puts between a module and the tensors of a parametrized weight, and those up to the weight's name.
_PARAMETRIZED = "parametrizations."
_STEM = re.compile(r"(?:.*\.)?parametrizations\.[^.]+\.")
# Before the role of a weight: the one that is trained, of which the other, beside it, is what quantisation makes (Distiller).
MASTER = "float_"


@dataclass(frozen=True, slots=True)
class Form:
    """A weight made of several stored tensors: its canonical name, its kind, its keys in fixed order, its shape."""

    name: str
    kind: str
    keys: tuple[str, ...]
    shape: Shape
    dtype: DType


def find_forms(specs: Mapping[str, TensorSpec]) -> tuple[dict[str, Form], dict[str, str]]:
    """Return forms by each key that takes part in one, and derived keys (with what they derive from).

    A suffix counts only with its partner: `weight_gate` is no `weight_g`, and `weight_orig` means a pruned weight
    beside a mask and a spectrally normalised one beside `weight_u`.
    """
    forms: dict[str, Form] = {}
    derived: dict[str, str] = {}
    for key in specs:
        if not key.endswith(_SUFFIXES):
            continue
        for suffix, finder in _FINDERS:
            if key.endswith(suffix):
                form = finder(key, key[: -len(suffix)], specs)
                if form is not None:
                    forms.update(dict.fromkeys(form.keys, form))
                    break
    for key in _changed_again(specs, forms):
        del forms[key]
    for key in specs:
        plain, copies = _trained(key, specs)
        if plain:
            forms[key] = Form(plain, "plain", (key,), specs[key].shape, specs[key].dtype)
            derived.update(dict.fromkeys(copies, key))
    return forms, derived


def _trained(key: str, specs: Mapping[str, TensorSpec]) -> tuple[str, list[str]]:
    """Return the name of the weight that a key is the trained one of, and which keys are made from it; "" if it is none."""
    made = _made_of(key)
    if made in specs and specs[made].shape == specs[key].shape:
        return made, [made]
    if not key.endswith("_raw"):
        return "", []
    stem = key[: -len("_raw")]
    owner, _, role = stem.rpartition(".")
    twin = f"{owner}.module.{role}" if owner else f"module.{role}"
    return twin if _has_sibling(specs, owner) else stem, [copy for copy in (stem, twin) if copy in specs]


def _made_of(key: str) -> str:
    """Return the name of what is made of a weight that is trained beside it, "" where a key isn't called like such a one."""
    owner, dot, role = key.rpartition(".")
    return f"{owner}{dot}{role.removeprefix(MASTER)}" if role.startswith(MASTER) else ""


def may_take_part(key: str) -> bool:
    """Whether a key is called like one of several tensors that make up a weight; their partners tell whether it is."""
    return key.endswith((*_SUFFIXES, "_raw")) or _made_of(key) != ""


def any_raw(keys: Iterable[str]) -> bool:
    """Return whether one of the keys may be the weight that others are made from."""
    return any(key.endswith("_raw") or _made_of(key) for key in keys)


def _has_sibling(specs: Mapping[str, TensorSpec], owner: str) -> bool:
    prefix = f"{owner}.module." if owner else "module."
    return any(k.startswith(prefix) for k in specs)


def _weight_norm(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    direction = specs.get(stem + "_v")
    if direction is None or stem in specs or not specs[key].shape or not _goes_with(specs[key].shape, direction.shape):
        return None
    return Form(stem, "weight_norm", (key, stem + "_v"), direction.shape, direction.dtype)


def _goes_with(magnitude: Shape, direction: Shape) -> bool:
    """Return whether a magnitude has one value for all of a weight, or one for each index of a dimension."""
    if not magnitude:
        return True
    fits = len(magnitude) == len(direction) and all(g in (1, v) for g, v in zip(magnitude, direction, strict=True))
    return fits and sum(g != 1 for g in magnitude) <= 1


def _changed_again(specs: Mapping[str, TensorSpec], forms: Mapping[str, Form]) -> list[str]:
    """Return the keys of parametrized weights that have more tensors than their form: another one changes them again."""
    held = Counter(found[0] for key in specs if _PARAMETRIZED in key and (found := _STEM.match(key)))
    kept = {key: found[0] for key in forms if _PARAMETRIZED in key and (found := _STEM.match(key))}
    return [key for key, stem in kept.items() if held[stem] > len(forms[key].keys)]


def _parametrized_weight_norm(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    other = specs.get(stem + ".original1")
    if other is None or not _goes_with(specs[key].shape, other.shape):
        return None
    return Form(_parametrized(stem), "weight_norm", (key, stem + ".original1"), other.shape, other.dtype)


def _parametrized(stem: str) -> str:
    """Return the name of a weight by what its parametrization's tensors begin with: a.weight of a.parametrizations.weight."""
    owner, mark, role = f".{stem}".rpartition(f".{_PARAMETRIZED}")
    return f"{owner}.{role}".removeprefix(".") if mark else stem


def _original(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    spec = specs[key]
    mask = specs.get(stem + "_mask")
    if mask is not None and mask.shape == spec.shape:
        return Form(stem, "pruned", (key, stem + "_mask"), spec.shape, spec.dtype)
    if stem + "_u" in specs:
        tail = (stem + "_v",) if stem + "_v" in specs else ()
        return Form(stem, "spectral_norm", (key, stem + "_u", *tail), spec.shape, spec.dtype)
    return None


def _parametrized_spectral_norm(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    u, v = f"{stem}.0._u", f"{stem}.0._v"
    if u not in specs:
        return None
    tail = (v,) if v in specs else ()
    return Form(_parametrized(stem), "spectral_norm", (key, u, *tail), specs[key].shape, specs[key].dtype)


def _scaled(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    packed = specs.get(stem)
    if packed is None or not packed.dtype.label.startswith("float8"):
        return None
    return Form(stem, "fp8", (stem, key), packed.shape, DType.F32)


def _scaled_by_name(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    return _scaled(key, f"{stem}.weight", specs)


def _bnb(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    packed = specs.get(stem)
    if packed is None or packed.dtype is not DType.U8 or stem + ".quant_map" not in specs:
        return None
    extra = tuple(k for k in specs if k.startswith(stem + ".") and k not in (key, stem + ".quant_map"))
    return Form(stem, "bnb4", (stem, key, stem + ".quant_map", *extra), (2 * packed.numel,), DType.F32)


_FINDERS: tuple[tuple[str, Callable[[str, str, Mapping[str, TensorSpec]], Form | None]], ...] = (
    (".original0", _parametrized_weight_norm),
    ("_g", _weight_norm),
    ("_orig", _original),
    (".original", _parametrized_spectral_norm),
    ("_scale_inv", _scaled),
    ("_scale", _scaled),
    (".scale_weight", _scaled_by_name),
    (".absmax", _bnb),
)
_SUFFIXES = tuple(suffix for suffix, _ in _FINDERS)


def as_matrices(specs: Mapping[str, TensorSpec]) -> dict[str, Shape]:
    """Return the shapes that such kernels, and their biases, have as matrices [in, out] and as vectors."""
    return _of_one_position(specs) | with_heads_joined(specs)


def _of_one_position(specs: Mapping[str, TensorSpec]) -> dict[str, Shape]:
    """Return the shapes of kernels [1, in, out] without their first axis, where a bias shows that outputs come last."""
    found: dict[str, Shape] = {}
    for key, spec in specs.items():
        if len(spec.shape) != 3 or spec.shape[0] != 1:
            continue
        owner, _, role = key.rpartition(".")
        if role in BIASES:
            bias = specs.get(f"{owner}.{BIASES[role]}")
            if bias is not None and bias.shape == spec.shape[2:]:
                found[key] = spec.shape[1:]
    return found


def with_heads_joined(specs: Mapping[str, TensorSpec]) -> dict[str, Shape]:
    """Return the shapes that kernels and biases with an axis for the heads have as matrices [in, out] and as vectors.

    A kernel is one where its bias has several axes, the kernel's last; or, without biases, where query, key and value of
    one module agree in theirs. Beside those, one that begins with the same axes leads back.
    """
    kernels: dict[str, dict[str, TensorSpec]] = defaultdict(dict)
    for key, spec in specs.items():
        if len(spec.shape) > 2 and key.endswith(f".{KERNEL}"):
            owner = key.rpartition(".")[0]
            kernels[owner.rpartition(".")[0]][owner] = spec
    found: dict[str, Shape] = {}
    for layers in kernels.values():
        wide = _by_bias(layers, specs) or _by_name(layers)
        heads = {layers[owner].shape[1:] for owner in wide}
        for owner, spec in layers.items():
            shape, bias = spec.shape, specs.get(f"{owner}.bias")
            if owner in wide:
                found[f"{owner}.{KERNEL}"] = (shape[0], prod(shape[1:]))
                if bias is not None and bias.shape == shape[1:]:
                    found[f"{owner}.bias"] = (prod(shape[1:]),)
            elif shape[:-1] in heads and (bias is None or bias.shape == shape[-1:]):
                found[f"{owner}.{KERNEL}"] = (prod(shape[:-1]), shape[-1])
    return found


def _by_bias(layers: Mapping[str, TensorSpec], specs: Mapping[str, TensorSpec]) -> set[str]:
    """Return the layers whose bias has the axes of their kernel but the first."""
    biases = {owner: specs[f"{owner}.bias"] for owner in layers if f"{owner}.bias" in specs}
    return {owner for owner, bias in biases.items() if bias.shape == layers[owner].shape[1:]}


def _by_name(layers: Mapping[str, TensorSpec]) -> set[str]:
    """Return query, key and value where their heads are alike and something leads back from the heads."""
    said = {owner: canonical(owner.rpartition(".")[2]) for owner in layers}
    named = {owner: words[0] for owner, words in said.items() if len(words) == 1 and words[0] in PROJECTIONS}
    heads = {layers[owner].shape[1:] for owner in named}
    back = {spec.shape[:-1] for owner, spec in layers.items() if owner not in named}
    return set(named) if set(named.values()) == PROJECTIONS and len(heads) == 1 and heads <= back else set()
