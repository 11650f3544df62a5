"""The safetensors format: eight bytes of length, a JSON header, and the values, one tensor in memory at a time.

Source of the layout: the format description in the README of huggingface/safetensors.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import TYPE_CHECKING, BinaryIO

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, WriteError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

NAMES = {
    DType.BOOL: "BOOL",
    DType.U8: "U8",
    DType.U16: "U16",
    DType.U32: "U32",
    DType.U64: "U64",
    DType.I8: "I8",
    DType.I16: "I16",
    DType.I32: "I32",
    DType.I64: "I64",
    DType.F8_E4M3FN: "F8_E4M3",
    DType.F8_E5M2: "F8_E5M2",
    DType.F8_E8M0FNU: "F8_E8M0",
    DType.F16: "F16",
    DType.BF16: "BF16",
    DType.F32: "F32",
    DType.F64: "F64",
    DType.C64: "C64",
}
_ALIGN = 8
_PIECE = 16 << 20


def write(file: BinaryIO, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> int:
    """Write `tensors` and return the number of bytes.

    Raises:
        UsageError: a name or an element type that the format can't hold.
    """
    layout = _layout(tensors)
    head = _header(tensors, layout, metadata)
    size = _put(file, memoryview(head))
    for name in layout:
        size += _put(file, _bytes(name, tensors[name]))
    return size


def _layout(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """Return the byte range of each tensor, in the order of writing: wide elements first, so that all are aligned."""
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    offsets: dict[str, tuple[int, int]] = {}
    at = 0
    for name in order:
        end = at + tensors[name].numel() * tensors[name].element_size()
        offsets[name] = (at, end)
        at = end
    return offsets


def _header(
    tensors: Mapping[str, torch.Tensor], layout: Mapping[str, tuple[int, int]], metadata: Mapping[str, str]
) -> bytes:
    """Return length and JSON header, padded with spaces so that the values are aligned."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        if name == "__metadata__":
            raise UsageError("a tensor can't be called __metadata__ in a safetensors file; rename it")
        table[name] = {
            "dtype": _type_name(name, tensor),
            "shape": list(tensor.shape),
            "data_offsets": list(layout[name]),
        }
    try:
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"a name is not valid Unicode ({printable(str(error.object)[:80])}); rename it") from error
    text += b" " * (-len(text) % _ALIGN)
    return struct.pack("<Q", len(text)) + text


def _type_name(name: str, tensor: torch.Tensor) -> str:
    try:
        return NAMES[DType.of(str(tensor.dtype))]
    except KeyError:
        raise UsageError(
            f"{printable(name)} is {tensor.dtype}, which the safetensors format does not hold; save as .pt, or cast it"
        ) from None


def _put(file: BinaryIO, data: memoryview) -> int:
    """Write all of `data` in pieces; a write may take less than it was given."""
    done = 0
    while done < len(data):
        count = file.write(data[done : done + _PIECE])
        if not count:
            raise WriteError("the disk takes no more bytes")
        done += count
    return done


def _bytes(name: str, tensor: torch.Tensor) -> memoryview:
    """Return the values in C order, little-endian: a view of plain CPU memory, else a copy of this one tensor."""
    import torch

    if sys.byteorder != "little":
        raise WriteError(
            f"{printable(name)}: writing safetensors on a big-endian machine is not supported; save as .pt"
        )
    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
