"""Comparison of tensors within a checkpoint."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from torchgraft.core.specs import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torchgraft.core.specs import Source, TensorSpec

SAMPLE = 64


def same_values(source: Source, network: str, first: str, second: str) -> bool:
    """Return whether two tensors of a network agree in shape, dtype and every value (NaN equals NaN)."""
    import torch

    a, b = source.read(network, first), source.read(network, second)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)))


def echoes(source: Source, network: str, spare: Iterable[TensorSpec], used: Iterable[TensorSpec]) -> dict[str, str]:
    """Return spare tensor -> used tensor for spare ones that are equal, value for value, to a used one.

    A few bytes tell most pairs apart, so whole tensors are read only where those agree. Tensors that begin with one
    value over and over (a norm that was never trained) are no echoes: they resemble each other by chance.
    """
    feeds = list(used)
    wanted = {(spec.shape, spec.dtype) for spec in spare} & {(spec.shape, spec.dtype) for spec in feeds}
    both = [spec for spec in (*spare, *feeds) if (spec.shape, spec.dtype) in wanted]
    looks = _looks(source, network, both) if both else {}
    by_look: dict[tuple[object, bytes], list[str]] = defaultdict(list)
    for spec in feeds:
        if spec.name in looks:
            by_look[(spec.shape, spec.dtype), looks[spec.name]].append(spec.name)
    found: dict[str, str] = {}
    for spec in spare:
        look = looks.get(spec.name)
        if look is None or _is_even(look, spec.dtype.itemsize):
            continue
        for name in by_look.get(((spec.shape, spec.dtype), look), ()):
            if same_values(source, network, spec.name, name):
                found[spec.name] = name
                break
    return found


def _is_even(look: bytes, itemsize: int) -> bool:
    return look == look[:itemsize] * (len(look) // itemsize)


def _looks(source: Source, network: str, specs: Iterable[TensorSpec]) -> dict[str, bytes]:
    """Return the first bytes of each tensor, read in the order of the file."""
    buffers = {spec.name: memoryview(bytearray(min(SAMPLE, spec.nbytes))) for spec in specs}
    order = sorted(buffers, key=lambda name: source.position(network, name))
    source.read_pieces([Piece(network, name, 0, buffers[name]) for name in order])
    return {name: bytes(buffer) for name, buffer in buffers.items()}
