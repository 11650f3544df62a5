"""How the elements of a tensor lie in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from functools import cache

from torchgraft.core.types import ScalarType, Tensor

# What torch raises where a tensor is asked for its memory that has none of its own: sparse, nested, or made of others.
NO_MEMORY = (RuntimeError, NotImplementedError, TypeError, ValueError)


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
    except NO_MEMORY:
        return None
    if not start or not tensor.numel():
        return None
    return str(tensor.device), start, start + span(tensor)


class TakenMemory:
    """The memory of some tensors, as ranges that don't overlap."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._taken: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for device, start, stop in sorted({found for tensor in tensors for found in _ranges(tensor)}):
            known = self._taken[device]
            if known and start < known[-1][1]:
                known[-1] = (known[-1][0], max(stop, known[-1][1]))
            else:
                known.append((start, stop))

    def meets(self, tensor: Tensor) -> bool:
        """Return whether the elements of `tensor` reach into this memory."""
        for device, start, stop in _ranges(tensor):
            known = self._taken.get(device, [])
            at = bisect_left(known, (stop, 0)) - 1  # the last that begins before `stop`
            if at >= 0 and known[at][1] > start:
                return True
        return False


def _ranges(tensor: Tensor) -> Iterator[tuple[str, int, int]]:
    """Yield where the values of a tensor lie; of a class that is made of other tensors, such as a DTensor, where those do."""
    flatten = getattr(type(tensor), "__tensor_flatten__", None)
    if flatten is not None:
        for inner in (getattr(tensor, name) for name in flatten(tensor)[0]):
            if hasattr(inner, "data_ptr"):  # a DTensor also has its mesh there
                yield from _ranges(inner)
    elif (found := memory_range(tensor)) is not None:
        yield found


def identity_of(tensor: Tensor) -> Hashable:
    """Return what two tensors share that are the same elements of one memory, seen the same way; None without memory.

    A conjugate, and a negated view, share all else with the tensor that they are made of, and mean other numbers.
    """
    try:
        address = tensor.data_ptr()
        if not address or not tensor.numel():
            return None
        seen = (tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
    except NO_MEMORY:
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
