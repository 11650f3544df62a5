"""Tensors that several steps cut up are read once: a fused projection, a stack of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.core.plan import Feed
from torchgraft.core.specs import Source
from torchgraft.ops import Index, SliceDim

if TYPE_CHECKING:
    import torch


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
