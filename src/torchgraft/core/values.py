"""Values of tensors: two side by side, where NaN equals NaN as it is what both hold; the rows that a step writes; their bytes."""

from __future__ import annotations

from torchgraft.core.plan import Rows
from torchgraft.core.system.checksums import crc32
from torchgraft.core.types import Tensor


def agreeing(a: Tensor, b: Tensor) -> Tensor:
    """Return where two tensors of one shape hold the same."""
    return (a == b) | ((a != a) & (b != b))  # noqa: PLR0124  # true of NaN alone, in every type


def comparable(value: Tensor) -> Tensor:
    """Return values in a type that torch can compare, without loss: it does little with floats of one byte and complex32."""
    import torch

    if value.dtype is torch.complex32:
        return value.to(torch.complex64)
    return value.float() if value.element_size() == 1 and value.is_floating_point() else value


def same_values(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors agree in shape, type and every value."""
    import torch

    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = comparable(a), comparable(b)
    return torch.equal(a, b) or bool(agreeing(a, b).all())


def rows_of(tensor: Tensor, rows: Rows | None) -> Tensor:
    """Return the part of a tensor that a step with these rows writes; None stands for all of it."""
    import torch

    if rows is None:
        return tensor
    return tensor.index_select(rows.dim, torch.tensor(rows.indices, dtype=torch.long, device=tensor.device))


def put_rows(tensor: Tensor, rows: Rows | None, values: Tensor) -> None:
    """Write `values`, cast to the tensor's type, into the part of a tensor that a step with these rows writes."""
    import torch

    if rows is None:
        tensor.copy_(values)
        return
    indices = torch.tensor(rows.indices, dtype=torch.long, device=tensor.device)
    tensor.index_copy_(rows.dim, indices, values.to(tensor.device, tensor.dtype))


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a dense tensor in C order: a view of its memory where they lie so on the CPU, else a copy."""
    import torch

    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of the values in C order, wherever and however they lie in memory."""
    return crc32(bytes_of(tensor), 0)
