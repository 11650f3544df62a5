"""How the elements of a tensor lie in memory."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache

from torchgraft.core.types import ScalarType, Tensor


def is_ordinary(tensor: Tensor) -> bool:
    """Return whether the values of a tensor are those that lie in its memory: it is of no class of its own, strided, and
    neither quantised, conjugated nor negated.
    """
    dtype = tensor.dtype
    usual = _is_usual(type(tensor), tensor.layout, dtype)
    return usual and not (tensor.is_neg() or (dtype.is_complex and tensor.is_conj()))


@cache  # a large model has few
def _is_usual(kind: type, layout: object, dtype: ScalarType) -> bool:
    import torch

    own = kind is not torch.Tensor and kind is not torch.nn.Parameter
    return not own and layout is torch.strided and not str(dtype).startswith(("torch.qint", "torch.quint"))


def memory_range(tensor: Tensor) -> tuple[str, int, int] | None:
    """Return the device, and where the elements of a tensor begin there, and end; None for what has no such memory."""
    try:
        start = tensor.data_ptr()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # sparse, or made of other tensors
        return None
    if not start or not tensor.numel():
        return None
    return str(tensor.device), start, start + span(tensor)


def identity_of(tensor: Tensor) -> Hashable:
    """Return what two tensors share that are the same elements of one memory, seen the same way; None without memory.

    A conjugate, and a negated view, share all else with the tensor that they are made of, and mean other numbers.
    """
    try:
        address = tensor.data_ptr()
        if not address or not tensor.numel():
            return None
        seen = (tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # sparse, or made of other tensors
        return None
    return (tensor.device, address, *seen)


def span(tensor: Tensor) -> int:
    """Return the number of bytes from the first element of a strided tensor to the end of its last, gaps included."""
    if tensor.is_contiguous():
        return tensor.nbytes
    if not tensor.numel():
        return 0
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill one gapless run of memory, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
