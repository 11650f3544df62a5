"""The old values, kept until the new ones are proved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.memory import Arena, gather, is_plain, move, scatter
from torchgraft.core.layout import is_dense

if TYPE_CHECKING:
    import torch

KEPT = 4 << 20  # as much is kept by default even where the file can be checked first


class Undo:
    """Keeps what is about to be overwritten, and puts it back, the last first."""

    def __init__(self, tensors: Iterable[torch.Tensor], sizes: Iterable[int] = ()) -> None:
        """Reserve memory for the old values of `tensors`, and for `sizes` bytes (each once, whole or in pieces)."""
        whole = [t.nbytes for t in tensors if is_plain(t) and is_dense(t)]
        self._arena = Arena(sum([(size + 63) // 64 * 64 for size in (*whole, *sizes)]))
        self._kept: list[_Moved | _Gathered | _Cloned] = []
        self.size = 0

    def reserve(self, size: int) -> int:
        """Return the address of room for `size` bytes."""
        self.size += size
        return self._arena.take(size)

    def keep_bytes(self, room: int, address: int, size: int) -> None:
        """Keep the bytes at `address` in `room`. May be called from several threads for different memory."""
        move(room, address, size)
        self._kept.append(_Moved(room, address, size))

    def keep_many(self, room: int, addresses: Sequence[int], sizes: Sequence[int]) -> None:
        """Keep `sizes` bytes of each of `addresses` in `room`, side by side."""
        gather(addresses, sizes, room)
        self._kept.append(_Gathered(room, addresses, sizes))

    def keep(self, tensor: torch.Tensor) -> None:
        """Keep the values of a whole tensor of any kind; those of other devices are kept on the CPU."""
        if is_plain(tensor) and is_dense(tensor):
            size = tensor.numel() * tensor.element_size()
            if size:
                self.keep_bytes(self.reserve(size), tensor.data_ptr(), size)
            return
        copy = tensor.detach().to("cpu", copy=True)
        self.size += copy.numel() * copy.element_size()
        self._kept.append(_Cloned(tensor, copy))

    def restore(self) -> list[torch.Tensor]:
        """Put every kept value back; return tensors that refuse to take theirs.

        In one row, whatever they were kept as: of tensors that share memory, a later one was kept with an earlier one's new
        values in it.
        """
        refused = []
        for kept in reversed(self._kept):
            if isinstance(kept, _Moved):
                move(kept.address, kept.room, kept.size)
            elif isinstance(kept, _Gathered):
                scatter(kept.room, kept.addresses, kept.sizes)
            else:
                try:
                    kept.tensor.copy_(kept.copy)
                except Exception:  # noqa: BLE001  # part of the transaction: all others must get theirs back
                    refused.append(kept.tensor)
        return refused


class _Moved(NamedTuple):
    room: int
    address: int
    size: int


class _Gathered(NamedTuple):
    room: int
    addresses: Sequence[int]
    sizes: Sequence[int]


class _Cloned(NamedTuple):
    tensor: torch.Tensor
    copy: torch.Tensor
