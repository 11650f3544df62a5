"""The careful way: one tensor at a time through its ops and a cast into the slot."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from torchgraft.applying import added
from torchgraft.applying.findings import Findings
from torchgraft.applying.finite import count_nonfinite
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import ApplyError
from torchgraft.core.plan import Feed, Step, result_shape
from torchgraft.core.specs import Source
from torchgraft.core.values import bytes_of, checksum, comparable, put_rows
from torchgraft.ops import Index, SliceDim, run_step

if TYPE_CHECKING:
    import torch


def fill(step: Step, value: torch.Tensor, reader: ReadOnce, findings: Findings) -> int:
    """Compute what `step` puts into its slot, write it to `value`, and return the checksum of what was to be written.

    In memory at one time: the inputs of this step, and one result of each op after the other.
    """
    import torch

    before, factors = checksum(value) if step.base else 0, list[int]()
    result = _computed(step, value, reader, factors)
    expected = result_shape(step.slot.spec.shape, step.rows)
    if tuple(result.shape) != expected:
        raise ApplyError(f"{step.slot.name}: the plan gives {list(result.shape)}, the slot takes {list(expected)}")
    if findings.checks_finite and (
        nonfinite := count_nonfinite(np.asarray(bytes_of(result)), DType.of(str(result.dtype)))
    ):
        findings.nonfinite(step, nonfinite)
    cast = result.to(value.dtype)
    if findings.checks_loss and result.dtype != value.dtype:
        _look_for_loss(step, result, cast, findings)
    if findings.checks_vanished and has_underflown(result, cast):
        findings.vanished(step, str(DType.of(str(result.dtype))))
    del result
    with torch.inference_mode() if value.is_inference() else nullcontext():
        put_rows(value, step.rows, cast)
    after = checksum(cast)
    if step.base:
        if added.holds(step.slot.name, before, factors):
            findings.added_again(step.slot)
        added.note(step.slot.name, before, after, factors)
    return after


def _computed(step: Step, value: torch.Tensor, reader: ReadOnce, factors: list[int]) -> torch.Tensor:
    """Return the result of the ops of `step`; `factors` gets the checksums of what is added to the slot's own values."""

    def read(feed: Feed) -> torch.Tensor:
        found = reader.read(feed)
        if step.base:
            factors.append(checksum(found))
        return found

    values = [value.detach().to("cpu", copy=True)] if step.base else []
    values = run_step(step, read, values)
    if len(values) != 1:
        raise ApplyError(f"{step.slot.name}: the plan joins {len(values)} tensors by no op")
    return values[0]


def _look_for_loss(step: Step, given: torch.Tensor, cast: torch.Tensor, findings: Findings) -> None:
    if lost := count_lost(given, cast):
        findings.lost(step, lost, str(DType.of(str(given.dtype))))


def has_underflown(given: torch.Tensor, cast: torch.Tensor) -> bool:
    """Return whether floats were cast to others of which not one is left, being too small, though some were not zero."""
    if given.dtype == cast.dtype or not (given.is_floating_point() and cast.is_floating_point()):
        return False
    return is_all_zero(cast) and not is_all_zero(given)


def is_all_zero(values: torch.Tensor) -> bool:
    """Return whether all values are zero."""
    first = values.reshape(-1)[:64] if values.is_contiguous() else values
    return not bool(comparable(first).any()) and not bool(comparable(values).any())


def count_lost(given: torch.Tensor, cast: torch.Tensor) -> int:
    """Return how many finite numbers became infinite or NaN, and how many integers changed; rounding of floats is no loss here."""
    import torch

    source, target = DType.of(str(given.dtype)), DType.of(str(cast.dtype))
    if target.holds(source):
        return 0
    if target.is_float and source.kind in ("int", "uint"):
        back = comparable(cast).to(given.dtype)
        return int((_bytes_of_each(given) != _bytes_of_each(back)).any(-1).sum())
    if target.is_float and source.kind == "float":
        known, made = comparable(given), comparable(cast)
        lost = ~torch.isfinite(made)
        if target.itemsize == 1:  # some of these types have no infinity: too great a number becomes the greatest
            lost |= known.abs() > overflow_threshold(cast.dtype)
            lost |= torch.sign(made) * torch.sign(known) < 0  # and one holds nothing but powers of two
            lost |= (known == 0) & (made != 0)
        return int((torch.isfinite(known) & lost).sum())
    if target.kind == "complex":
        return int((_are_finite(given) & ~_are_finite(cast)).sum())
    changed = cast.to(given.dtype) != given
    if {source.kind, target.kind} == {"int", "uint"}:  # of one size, they come back as they were
        changed |= (cast if target.kind == "int" else given) < 0
    return int(changed.sum())


def _bytes_of_each(values: torch.Tensor) -> torch.Tensor:
    """Return the bytes of each value, [values, bytes]: some types can't be compared."""
    import torch

    return values.reshape(-1).view(torch.uint8).reshape(values.numel(), values.element_size())


def _are_finite(values: torch.Tensor) -> torch.Tensor:
    """Return where numbers are finite, in both their parts."""
    import torch

    if values.is_complex():
        return torch.isfinite(torch.view_as_real(values)).all(-1)
    return torch.isfinite(comparable(values))


def overflow_threshold(dtype: torch.dtype) -> float:
    """Return up to where numbers are rounded to the greatest of `dtype`: half a step beyond it."""
    import torch

    info = torch.finfo(dtype)
    return info.max + 2.0 ** math.floor(math.log2(info.max)) * info.eps / 2


class ReadOnce:
    """Reads feeds; keeps a tensor that is cut up until another one is read. Steps come in file order, so that is soon.

    In memory at one time: the tensor that was read last.
    """

    __slots__ = ("_key", "_last", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._key: tuple[str, str] | None = None
        self._last: torch.Tensor | None = None

    def read(self, feed: Feed) -> torch.Tensor:
        """Return the tensor of a feed, before its ops, which must not change it."""
        key = (feed.network, feed.key)
        if self._last is not None and self._key == key:
            return self._last
        self._last = None
        value = self._source.read(*key)
        if feed.ops and isinstance(feed.ops[0], (Index, SliceDim)):
            self._key, self._last = key, value
        return value
