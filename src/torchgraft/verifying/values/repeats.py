"""Tensors of a checkpoint that hold the same values: second copies of what another name has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from torchgraft.core.errors import UnsupportedCheckpointError
from torchgraft.core.specs import Piece, Source, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.core.values import same_values

SAMPLE = 64  # bytes of each tensor that tell most of them apart


def find_repeats(source: Source, network: str, specs: Collection[TensorSpec]) -> dict[str, str]:
    """Return which tensors repeat an earlier one of the same shape and type, value for value: name -> that one's name.

    Tensors that begin with one value over and over repeat nothing: see `find_duplicates`. Of a source without values
    nothing is known. Each tensor is read once; in memory at one time are those that begin alike and differ, and one more.
    """
    found: dict[str, str] = {}
    try:
        for same in _of_equal_beginnings(source, network, specs):
            firsts: list[tuple[str, Tensor]] = []
            for name in same:
                value = source.read(network, name)
                first = next((n for n, held in firsts if same_values(value, held)), None)
                if first is None:
                    firsts.append((name, value))
                else:
                    found[name] = first
    except UnsupportedCheckpointError:
        return {}
    return found


def _of_equal_beginnings(source: Source, network: str, specs: Collection[TensorSpec]) -> Iterator[list[str]]:
    """Yield the names of tensors of one shape and type that begin with the same bytes, which are not one value repeated.

    A few bytes, read in the order of the file, tell most tensors apart.
    """
    buffers = {spec.name: memoryview(bytearray(min(SAMPLE, spec.nbytes))) for spec in specs}
    order = sorted(buffers, key=lambda name: source.position(network, name))
    source.read_pieces([Piece(network, name, 0, buffers[name]) for name in order])
    groups: defaultdict[tuple[object, bytes], list[str]] = defaultdict(list)
    for spec in specs:
        first = bytes(buffers[spec.name])
        if first != first[: spec.dtype.itemsize] * (len(first) // spec.dtype.itemsize):
            groups[(spec.shape, spec.dtype), first].append(spec.name)
    return (names for names in groups.values() if len(names) > 1)


def equal_values(source: Source, network: str, first: str, second: str) -> bool:
    """Return whether two tensors of a network agree in shape, dtype and every value (NaN equals NaN)."""
    return same_values(source.read(network, first), source.read(network, second))


def find_duplicates(
    source: Source, network: str, unused: Collection[TensorSpec], used: Collection[TensorSpec]
) -> dict[str, str]:
    """Return unused tensor -> used tensor for unused ones that are equal, value for value, to a used one.

    Tensors that begin with one value over and over (a norm that was never trained) are no duplicates: they are alike by
    chance. Each tensor is read once; in memory at one time are used ones that begin alike, and one more.
    """
    wanted = {(spec.shape, spec.dtype) for spec in unused} & {(spec.shape, spec.dtype) for spec in used}
    both = [spec for spec in (*unused, *used) if (spec.shape, spec.dtype) in wanted]
    feeds = {spec.name for spec in used}
    found: dict[str, str] = {}
    for same in _of_equal_beginnings(source, network, both):
        left = [name for name in same if name not in feeds]
        held = [(name, source.read(network, name)) for name in same if name in feeds] if left else []
        for name in left if held else ():
            value = source.read(network, name)
            first = next((n for n, used in held if same_values(value, used)), None)
            if first is not None:
                found[name] = first
    return found
