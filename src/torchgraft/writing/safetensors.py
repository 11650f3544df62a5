"""The safetensors format: eight bytes of length, a JSON header, and the values.

Source of the layout: the format description in the README of huggingface/safetensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence

from torchgraft.core.dtypes import SAFETENSORS
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.facts import DIGESTS
from torchgraft.core.system.commit import put
from torchgraft.writing.items import Item
from torchgraft.writing.streaming import Streamer

# complex128 is read where a file has it, and not written: not all readers know it.
NAMES = {dtype: name for name, dtype in SAFETENSORS.items() if name != "C128"}
MAX_HEADER = 100_000_000
_ALIGN = 8
_NOTHING_YET = "0" * 64


def write(handle: int, items: Sequence[Item], metadata: Mapping[str, str], tick: Callable[[int], None]) -> int:
    """Write `items` with their digests to a new file and return the number of bytes.

    Raises:
        UsageError: a name or an element type that the format can't hold, or more names than its header takes.
    """
    table, size = _table(items)
    head = _header(table, metadata, dict.fromkeys(table, _NOTHING_YET))
    offsets = [len(head) + _offset(table[item.name]) for item in items]
    order = sorted(range(len(items)), key=offsets.__getitem__)
    sums = Streamer(handle, [(items[i], offsets[i]) for i in order], tick).run()
    digests = {items[i].name: found.sha256 for i, found in zip(order, sums, strict=True)}
    put(handle, _header(table, metadata, {name: digests[name] for name in table}), 0)
    return len(head) + size


def header_cost(item: Item) -> int:
    """Return about how many bytes of header a tensor takes, its digest included."""
    return 2 * len(item.name.encode("utf-8", "replace")) + 180 + 8 * len(item.spec.shape)


def check(items: Sequence[Item], metadata: Mapping[str, str]) -> None:
    """Refuse what the format can't hold, before anything is written.

    Raises:
        UsageError: a name or an element type that the format can't hold, or more names than its header takes.
    """
    table, _ = _table(items)
    _header(table, metadata, dict.fromkeys(table, _NOTHING_YET))


def _offset(entry: dict[str, object]) -> int:
    offsets = entry["data_offsets"]
    return int(offsets[0]) if isinstance(offsets, list) else 0


def _table(items: Sequence[Item]) -> tuple[dict[str, dict[str, object]], int]:
    """Return the header's entries and the size of the data: wide elements lie first, so that all are aligned."""
    spans: dict[str, list[int]] = {}
    at = 0
    for item in sorted(items, key=lambda item: -item.spec.dtype.itemsize):
        spans[item.name] = [at, at + item.spec.nbytes]
        at += item.spec.nbytes
    table: dict[str, dict[str, object]] = {}
    for item in items:
        if item.name == "__metadata__":
            raise UsageError("a tensor can't be called __metadata__ in a safetensors file; rename it")
        table[item.name] = {
            "dtype": _type_name(item), "shape": list(item.spec.shape), "data_offsets": spans[item.name]
        }  # fmt: skip
    return table, at


def _header(table: Mapping[str, object], metadata: Mapping[str, str], digests: Mapping[str, str]) -> bytes:
    """Return length and JSON header, padded with spaces so that the values are aligned. Its size is that of any digests."""
    facts = {**metadata, DIGESTS: json.dumps(digests, separators=(",", ":"), ensure_ascii=False)}
    try:
        text = json.dumps({"__metadata__": facts, **table}, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        odd = next((n for n in (*table, *metadata, *metadata.values()) if not _is_unicode(n)), "")
        raise UsageError(f"a name is not valid Unicode ({printable(odd, 80)}); rename it") from error
    text += b" " * (-len(text) % _ALIGN)
    if len(text) > MAX_HEADER:
        raise UsageError(
            f"{len(table)} tensors need a safetensors header of {len(text)} bytes, the format's limit is {MAX_HEADER}: "
            "write several files (shard_size, --shard-size), or a .pt file"
        )
    return struct.pack("<Q", len(text)) + text


def _is_unicode(text: str) -> bool:
    return text.encode("utf-8", "ignore").decode() == text


def _type_name(item: Item) -> str:
    try:
        return NAMES[item.spec.dtype]
    except KeyError:
        raise UsageError(
            f"{printable(item.name)} is torch.{item.spec.dtype}, which the safetensors format does not hold; "
            "save as .pt, or cast it"
        ) from None
