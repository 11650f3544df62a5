"""The careful way: one tensor at a time through its ops and a cast into the slot."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from torchgraft.applying.finite import odd_values
from torchgraft.applying.memory import bytes_of
from torchgraft.core.checksums import crc32
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import ApplyError
from torchgraft.core.plan import result_shape

if TYPE_CHECKING:
    import torch

    from torchgraft.applying.findings import Findings
    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.reading_once import ReadOnce
    from torchgraft.core.plan import Rows, Step


def fill(step: Step, value: torch.Tensor, reader: ReadOnce, findings: Findings) -> int:
    """Compute what `step` puts into its slot, write it to `value`, and return the checksum of what was to be written.

    In memory at one time: the inputs of this step, and one result of each op after the other.
    """
    result = _computed(step, value, reader)
    expected = result_shape(step.slot.spec.shape, step.rows)
    if tuple(result.shape) != expected:
        raise ApplyError(f"{step.slot.name}: the plan gives {list(result.shape)}, the slot takes {list(expected)}")
    if findings.looks_for_odd and (odd := odd_values(_cpu_bytes(result), DType.of(str(result.dtype)))):
        findings.odd(step, odd)
    cast = result.to(value.dtype)
    if findings.looks_for_loss and result.dtype != value.dtype:
        _look_for_loss(step, result, cast, findings)
    del result
    _write(value, cast, step.rows)
    return checksum(cast)


def checksum(tensor: torch.Tensor) -> int:
    """Return a checksum of the values in C order, wherever and however they lie in memory."""
    return crc32(_cpu_bytes(tensor).data, 0)


def _cpu_bytes(tensor: torch.Tensor) -> Bytes:
    return bytes_of(tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous())


def _computed(step: Step, value: torch.Tensor, reader: ReadOnce) -> torch.Tensor:
    """Return the result of the ops of `step`."""
    values = [value.detach().to("cpu", copy=True)] if step.base else []
    for feed in step.feeds:
        tensor = reader.read(feed)
        for op in feed.ops:
            tensor = op.run([tensor])
        values.append(tensor)
    for op in step.ops:
        values = [op.run(values)]
    if len(values) != 1:
        raise ApplyError(f"{step.slot.name}: the plan joins {len(values)} tensors by no op")
    return values[0]


def _write(value: torch.Tensor, cast: torch.Tensor, rows: Rows | None) -> None:
    import torch

    inference = torch.inference_mode() if value.is_inference() else nullcontext()
    with inference:
        if rows is None:
            value.copy_(cast)
            return
        indices = torch.tensor(rows.indices, dtype=torch.long, device=value.device)
        value.index_copy_(rows.dim, indices, cast.to(value.device))


def _look_for_loss(step: Step, given: torch.Tensor, cast: torch.Tensor, findings: Findings) -> None:
    if lost := count_lost(given, cast):
        findings.lost(step, lost, str(DType.of(str(given.dtype))))


def count_lost(given: torch.Tensor, cast: torch.Tensor) -> int:
    """Return how many finite numbers became infinite, or integers changed. Rounding is no loss in this sense."""
    import torch

    source, target = DType.of(str(given.dtype)), DType.of(str(cast.dtype))
    if target.holds(source):
        return 0
    if target.is_float and source.kind in ("float", "int", "uint", "bool"):
        return int((torch.isfinite(given) & ~torch.isfinite(cast)).sum())
    if target.kind == "complex":
        return 0
    return int((cast.to(given.dtype) != given).sum())
