"""Parametrized and packed weights seen as the one weight that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torchgraft.core.dtypes import DType
from torchgraft.core.specs import Shape, TensorSpec


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
    for key in specs:
        if key.endswith("_raw"):
            stem = key[: -len("_raw")]
            owner, _, role = stem.rpartition(".")
            twin = f"{owner}.module.{role}" if owner else f"module.{role}"
            base = twin if _has_sibling(specs, owner) else stem
            forms[key] = Form(base, "plain", (key,), specs[key].shape, specs[key].dtype)
            for copy in (stem, twin):
                if copy in specs:
                    derived[copy] = key
    return forms, derived


def may_take_part(key: str) -> bool:
    """Whether a key is called like one of several tensors that make up a weight; their partners tell whether it is."""
    return key.endswith((*_SUFFIXES, "_raw"))


def any_raw(keys: Iterable[str]) -> bool:
    """Return whether one of the keys may be the weight that others are made from."""
    return any(key.endswith("_raw") for key in keys)


def _has_sibling(specs: Mapping[str, TensorSpec], owner: str) -> bool:
    prefix = f"{owner}.module." if owner else "module."
    return any(k.startswith(prefix) for k in specs)


def _weight_norm(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    direction = specs.get(stem + "_v")
    magnitude = specs[key]
    if direction is None or stem in specs or len(direction.shape) != len(magnitude.shape):
        return None
    if any(g not in (1, v) for g, v in zip(magnitude.shape, direction.shape, strict=True)):
        return None
    return Form(stem, "weight_norm", (key, stem + "_v"), direction.shape, direction.dtype)


def _parametrized_weight_norm(key: str, stem: str, specs: Mapping[str, TensorSpec]) -> Form | None:
    other = specs.get(stem + ".original1")
    if other is None:
        return None
    return Form(_parametrized(stem), "weight_norm", (key, stem + ".original1"), other.shape, other.dtype)


def _parametrized(stem: str) -> str:
    """Return the name of the weight whose parametrization's tensors begin with `stem`: a.parametrizations.weight is a.weight."""
    owner, mark, role = f".{stem}".rpartition(".parametrizations.")
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
    (".absmax", _bnb),
)
_SUFFIXES = tuple(suffix for suffix, _ in _FINDERS)
