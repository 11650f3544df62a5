"""A shortcut through headers of safetensors files that are written as nearly all programs write them.

JSON has many ways to write the same. A header in the usual one, with the tensors in the order of their bytes, is understood
entry by entry, without a tree of a million dictionaries. Whatever differs in the least, or is wrong, is left to the careful
way, which also says what is wrong.
"""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.reading.containers.strict_json import loads
from torchgraft.reading.tensors.leaves import MAX_DIMS, FileBytes, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchgraft.core.dtypes import DType
    from torchgraft.reading.disk.files import Window

_METADATA = b'{"__metadata__":'
_NUMBER = rb"(?:0|[1-9][0-9]{0,17})"
_ENTRY = re.compile(
    rb'"([^"\\\x00-\x1f]+)":\{"dtype":"([A-Z0-9_]+)","shape":\[((?:' + _NUMBER + rb"(?:,(?=[0-9])|(?=\])))*)\],"
    rb'"data_offsets":\[(' + _NUMBER + rb"),(" + _NUMBER + rb")\]\}(,|\} *\Z)"
)


class PlainHeader(NamedTuple):
    """The metadata as it stands there, and the tensors by their names."""

    metadata: Any
    tensors: dict[str, View]


class _Kind(NamedTuple):
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


def plain_header(window: Window, raw: bytes, dtypes: Mapping[str, DType]) -> PlainHeader | None:
    """Return what the header `raw` says if it is a usual and sound one, else None."""
    metadata, at = _metadata(window, raw)
    end, base = 0, 8 + len(raw)
    kinds: dict[tuple[bytes, bytes], _Kind | None] = {}
    out: dict[str, View] = {}
    count = 0
    while (found := _ENTRY.match(raw, at)) is not None:
        name, label, dims, first, last, rest = found.groups()
        said = label, dims
        if said not in kinds:
            kinds[said] = _kind(dtypes.get(label.decode()), dims)
        kind = kinds[said]
        if kind is None or int(first) != end or int(last) != end + kind.nbytes:
            return None
        try:
            out[name.decode()] = View(FileBytes(window, base + end, kind.nbytes), kind.dtype, kind.shape)
        except UnicodeDecodeError:
            return None
        count += 1
        end += kind.nbytes
        at = found.end()
        if rest != b",":
            sound = len(out) == count and base + end == window.size and "__metadata__" not in out
            return PlainHeader(metadata, out) if sound else None
    return None


def _metadata(window: Window, raw: bytes) -> tuple[Any, int]:
    """Return the metadata at the beginning, {} if there are none there, and where the tensors begin."""
    if not raw.startswith(_METADATA):
        return {}, 1
    end = raw.find(b'},"', len(_METADATA)) + 1  # in a text, there would be a backslash before the quotation mark
    try:
        return loads(raw[len(_METADATA) : end], window.label), end + 1
    except CorruptCheckpointError:
        return {}, len(raw)


def _kind(dtype: DType | None, dims: bytes) -> _Kind | None:
    shape = tuple(map(int, dims.split(b","))) if dims else ()
    if dtype is None or len(shape) > MAX_DIMS:
        return None
    nbytes = prod(shape) * dtype.itemsize
    return _Kind(dtype, shape, nbytes) if nbytes < 1 << 63 else None
