"""Tensors of a checkpoint that hold the same values: second copies of what another name has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

from torchgraft.core.errors import UnsupportedCheckpointError
from torchgraft.core.specs import Piece, Source, TensorSpec
from torchgraft.core.values import same_values

SAMPLE = 64  # bytes of each tensor by which most are told apart


def find_repeats(source: Source, network: str, specs: Collection[TensorSpec]) -> dict[str, str]:
    """Return which tensors repeat an earlier one of the same shape and type, value for value: name -> that one's name.

    Tensors that begin with one value over and over repeat nothing: see `find_duplicates`. Of a source without values
    nothing is known.
    """
    found: dict[str, str] = {}
    try:
        for same in _of_equal_beginnings(source, network, specs):
            firsts: list[str] = []
            for name in same:
                first = next((n for n in firsts if equal_values(source, network, name, n)), None)
                if first is None:
                    firsts.append(name)
                else:
                    found[name] = first
    except UnsupportedCheckpointError:
        return {}
    return found


def _of_equal_beginnings(source: Source, network: str, specs: Collection[TensorSpec]) -> Iterator[list[str]]:
    """Yield the names of tensors of one shape and type that begin with the same bytes, which are not one value repeated."""
    first_bytes = _first_bytes(source, network, specs)
    groups: defaultdict[tuple[object, bytes], list[str]] = defaultdict(list)
    for spec in specs:
        first = first_bytes[spec.name]
        if not _repeats_one_value(first, spec.dtype.itemsize):
            groups[(spec.shape, spec.dtype), first].append(spec.name)
    return (names for names in groups.values() if len(names) > 1)


def equal_values(source: Source, network: str, first: str, second: str) -> bool:
    """Return whether two tensors of a network agree in shape, dtype and every value (NaN equals NaN)."""
    return same_values(source.read(network, first), source.read(network, second))


def find_duplicates(
    source: Source, network: str, unused: Iterable[TensorSpec], used: Iterable[TensorSpec]
) -> dict[str, str]:
    """Return unused tensor -> used tensor for unused ones that are equal, value for value, to a used one.

    A few bytes tell most pairs apart, so whole tensors are read only where those agree. Tensors that begin with one
    value over and over (a norm that was never trained) are no duplicates: they are alike by chance.
    """
    feeds = list(used)
    wanted = {(spec.shape, spec.dtype) for spec in unused} & {(spec.shape, spec.dtype) for spec in feeds}
    both = [spec for spec in (*unused, *feeds) if (spec.shape, spec.dtype) in wanted]
    first_bytes = _first_bytes(source, network, both) if both else {}
    candidates: defaultdict[tuple[object, bytes], list[str]] = defaultdict(list)
    for spec in feeds:
        if spec.name in first_bytes:
            candidates[(spec.shape, spec.dtype), first_bytes[spec.name]].append(spec.name)
    found: dict[str, str] = {}
    for spec in unused:
        first = first_bytes.get(spec.name)
        if first is None or _repeats_one_value(first, spec.dtype.itemsize):
            continue
        same = candidates.get(((spec.shape, spec.dtype), first), ())
        if name := next((n for n in same if equal_values(source, network, spec.name, n)), None):
            found[spec.name] = name
    return found


def _repeats_one_value(first: bytes, itemsize: int) -> bool:
    return first == first[:itemsize] * (len(first) // itemsize)


def _first_bytes(source: Source, network: str, specs: Iterable[TensorSpec]) -> dict[str, bytes]:
    """Return the first bytes of each tensor, read in the order of the file."""
    buffers = {spec.name: memoryview(bytearray(min(SAMPLE, spec.nbytes))) for spec in specs}
    order = sorted(buffers, key=lambda name: source.position(network, name))
    source.read_pieces([Piece(network, name, 0, buffers[name]) for name in order])
    return {name: bytes(buffer) for name, buffer in buffers.items()}
