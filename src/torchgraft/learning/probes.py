"""Running a conversion on tensors whose elements say where they come from.

Every element of the source gets a number of its own. Its digits go through the conversion one run after the other, as
values that are exact in the source's element type, so they survive casts down to bfloat16. One more run has the last
digit complemented (9 - d in decimal): a moved element follows it, a constant doesn't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.objects import a_kind
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Generator, ScalarType, Tensor
from torchgraft.core.values import agreeing

Ids = NDArray[np.int64]
Convert = Callable[[dict[str, Tensor]], Any]

# Digits are 0 to 255 where the types allow: bfloat16 has eight significant bits, unsigned bytes end there.
BASE = 256
CONSTANT = -1
COMPUTED = -2


@dataclass(frozen=True, slots=True)
class Traced:
    """Where the elements of one output come from.

    `ids` has the number of each element's origin, CONSTANT for elements that are the same in every run, or COMPUTED.
    `values` are those of one run: the constants are there (None where none are).
    """

    spec: TensorSpec
    ids: Ids
    values: Tensor | None


class ElementNumbers:
    """Numbers for the elements of all source tensors: those of one tensor follow each other in C order."""

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self.specs = specs
        self.names = list(specs)
        counts = [specs[name].numel for name in self.names]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        self.base = min((exact_integers(spec.dtype) for spec in specs.values()), default=BASE)

    @property
    def total(self) -> int:
        """Number of elements."""
        return int(self.starts[-1])

    def digits(self) -> int:
        """Return how many digits a number has."""
        count, reach = 1, self.base
        while reach < self.total:
            count, reach = count + 1, reach * self.base
        return count

    def probe(self, number: int, *, complemented: bool = False) -> dict[str, Tensor]:
        """Return the source with digit `number` of each element's number as its value."""
        import torch

        out = {}
        for at, name in enumerate(self.names):
            spec = self.specs[name]
            digit = torch.arange(int(self.starts[at]), int(self.starts[at + 1]), device="cpu")
            digit >>= number * (self.base.bit_length() - 1)  # the base is a power of two
            digit &= self.base - 1
            digit = (self.base - 1) - digit if complemented else digit
            out[name] = digit.to(getattr(torch, spec.dtype.label)).reshape(spec.shape)
        return out


def exact_integers(dtype: DType) -> int:
    """Return how many whole numbers from 0 on an element type holds exactly, BASE at most."""
    return min(BASE, 1 << max(dtype.mantissa, 1))


def trace(convert: Convert, numbers: ElementNumbers) -> tuple[dict[str, Traced], tuple[str, ...]]:
    """Return where all outputs of `convert` come from, and the names of results that are no tensors.

    Takes one run for each digit (three for a million elements, four up to four thousand million) and one more.
    Memory: the source and the outputs once, and 8 bytes for each output element.

    Raises:
        UsageError: the conversion fails on the probes, or its result is no state dict or changes its form.
    """
    last, skipped = run_conversion(convert, numbers.probe(0))
    complemented, _ = run_conversion(convert, numbers.probe(0, complemented=True))
    _require_same_form(last, complemented)
    found = {name: _first_digits(value, complemented.pop(name), numbers.base) for name, value in last.items()}
    for number in range(1, numbers.digits()):
        outputs, _ = run_conversion(convert, numbers.probe(number))
        _require_same_form(last, outputs)
        for name in last:
            _add_digits(found[name], outputs.pop(name), last[name], numbers, number)
    for ids in found.values():
        ids.masked_fill_(ids >= numbers.total, COMPUTED)
    traced = {name: Traced(tensor_spec(name, value), found[name].numpy(), value) for name, value in last.items()}
    return traced, skipped


def _first_digits(value: Tensor, complemented: Tensor, base: int) -> Tensor:
    """Return the last digit of each element's number, CONSTANT or COMPUTED, from the first run and the complemented one."""
    digit = _digits(value, base)
    ids = digit.long()
    ids.masked_fill_((digit < 0) | (digit + _digits(complemented, base) != base - 1), COMPUTED)
    if bool((ids == COMPUTED).any()):
        ids.masked_fill_(agreeing(value, complemented), CONSTANT)
    return ids


def _add_digits(ids: Tensor, value: Tensor, first: Tensor, numbers: ElementNumbers, number: int) -> None:
    """Add digit `number` to the numbers, in place; what is no digit, or no constant after all, becomes COMPUTED."""
    digit = _digits(value, numbers.base)
    constant = ids == CONSTANT
    if bool(constant.any()):
        ids.masked_fill_(constant & ~agreeing(value, first), COMPUTED)
    moved = ids >= 0
    ids.masked_fill_(moved & (digit < 0), COMPUTED)
    ids += digit.long().mul_(numbers.base**number) * (ids >= 0)


def run_conversion(convert: Convert, given: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return copies of the tensors that `convert` makes of `given`, on the CPU, and the names of what is no tensor.

    A function that returns nothing has changed the dictionary that it was given.

    Raises:
        UsageError: it fails, or returns no state dict.
    """
    try:
        result = convert(given)
    except Exception as error:
        text = f"the conversion fails on probe tensors ({type(error).__name__}: {error})"
        raise UsageError(
            f"{printable(text, 300)}; it must run on a state dict of the source's names and shapes"
        ) from error
    result = given if result is None else result
    if hasattr(result, "state_dict") and not hasattr(result, "keys"):
        result = result.state_dict()
    return _tensors(result)


def _tensors(result: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    import torch

    if not hasattr(result, "items"):
        accepted = "a dictionary of tensors, a module or None is accepted"
        raise UsageError(f"the conversion returns {a_kind(result)}; {accepted}")
    found, skipped = {}, []
    for name, value in result.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))  # noqa: PLW2901
        if isinstance(value, torch.Tensor):
            # A copy: the next run may write into the same memory, as loading into one model does.
            found[str(name)] = value.detach().to("cpu", copy=True)
        else:
            skipped.append(str(name))
    nested = next((str(name) for name, value in result.items() if hasattr(value, "keys")), None)
    if not found and nested is not None:
        raise UsageError(
            f"the conversion returns dictionaries within a dictionary; return the state dict itself, as in "
            f"lambda state: convert(state)[{nested!r}]"
        )
    return found, tuple(skipped)


def tensor_spec(name: str, value: Tensor) -> TensorSpec:
    """Return the spec of a tensor.

    Raises:
        UsageError: an element type that is unknown here.
    """
    try:
        return TensorSpec(name, tuple(value.shape), DType.of(str(value.dtype)))
    except KeyError:
        raise UsageError(f"the conversion makes {printable(name)} of type {value.dtype}, which is not known") from None


def _digits(value: Tensor, base: int) -> Tensor:
    """Return the values as whole numbers from 0 to base - 1, -1 for those that are none (complex: by the real part)."""
    import torch

    plain = value.real if value.is_complex() else value
    if not plain.is_floating_point():
        plain = plain.to(torch.int64)
    elif plain.dtype is not torch.float64:
        plain = plain.to(torch.float32)
    digit = (plain.nan_to_num(-1.0) if plain.is_floating_point() else plain).clamp(-1, base).to(torch.int32)
    return digit.masked_fill_((digit != plain) | (digit >= base), -1)


def _require_same_form(first: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
    for name in {**first, **again}:
        forms = [(tuple(side[name].shape), str(side[name].dtype)) if name in side else None for side in (first, again)]
        if forms[0] != forms[1]:
            forms_words = " and ".join(
                "nothing" if f is None else f"{list(f[0])} {f[1].removeprefix('torch.')}" for f in forms
            )
            raise UsageError(
                f"the conversion makes {printable(name)} {forms_words} of a source of the same shapes: what it does depends on "
                "values, or on how often it is called, and can't be learned"
            )


def random_values(specs: Mapping[str, TensorSpec], seed: int) -> dict[str, Tensor]:
    """Return a source of random values of all signs, as wild as the element types allow without NaN or overflow."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: _random(spec, generator) for name, spec in specs.items()}


def _random(spec: TensorSpec, generator: Generator) -> Tensor:
    import torch

    dtype: ScalarType = getattr(torch, spec.dtype.label)
    if spec.dtype.kind in ("float", "complex"):
        wide = torch.complex64 if spec.dtype.kind == "complex" else torch.float32
        wide = torch.float64 if spec.dtype is DType.F64 else wide
        return torch.randn(spec.shape, generator=generator, dtype=wide, device="cpu").to(dtype)
    low = -100 if spec.dtype.kind == "int" else 0
    return torch.randint(low, 2 if dtype is torch.bool else 100, spec.shape, generator=generator, device="cpu").to(
        dtype
    )
