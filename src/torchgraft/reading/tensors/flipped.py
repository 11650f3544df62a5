"""Lazy views: tensors whose sign, or that of their imaginary part, is turned when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.reading.tensors.leaves import Leaf

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from torchgraft.reading.tensors.records import RecordBytes


class Flipped(Leaf):
    """A view that torch saved with its conjugate or negative bit set: signs are turned, nothing else changes.

    Turning a sign is turning the highest bit, also of NaN, as torch does when it resolves such a view.
    """

    __slots__ = ("_signs", "conj", "dtype", "inner", "neg", "shape")

    def __init__(self, inner: Leaf, *, conj: bool, neg: bool) -> None:
        self.inner = inner
        self.shape = inner.shape
        self.dtype = inner.dtype
        self.conj = conj
        self.neg = neg
        size = inner.dtype.itemsize
        real, imaginary = {size // 2 - 1}, {size - 1}
        if inner.dtype.kind != "complex":
            real, imaginary = {size - 1}, set()
        # bytes of an element that hold a sign to turn; what both flags turn stays as it is
        self._signs = sorted((real | imaginary if neg else set()) ^ (imaginary if conj else set()))

    @property
    def identity(self) -> Hashable:
        """That of the view and its flags."""
        return (self.inner.identity, self.conj, self.neg)

    @property
    def place(self) -> tuple[int, int]:
        """File number and offset."""
        return self.inner.place

    def records(self) -> Iterable[RecordBytes]:
        """Return those of the view."""
        return self.inner.records()

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill `buffer` with the bytes from `start` on, signs turned."""
        import numpy as np

        self.inner.fill(buffer, start)
        raw = np.frombuffer(buffer, dtype=np.uint8)
        for sign in self._signs:
            raw[(sign - start) % self.dtype.itemsize :: self.dtype.itemsize] ^= 0x80
