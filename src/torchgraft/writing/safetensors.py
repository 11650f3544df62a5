"""The safetensors format: eight bytes of length, a JSON header, and the values.

Source of the layout: the format description in the README of huggingface/safetensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torchgraft.core.dtypes import SAFETENSORS
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.facts import DIGESTS
from torchgraft.core.system.commit import put
from torchgraft.writing.items import Item, Streamer

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
    layout = _layout(items)
    head = _header(layout, metadata, {})
    in_order = sorted(items, key=lambda item: layout.starts[item.name])
    sums = Streamer(handle, [(item, len(head) + layout.starts[item.name]) for item in in_order], tick).run()
    digests = {item.name: found.sha256 for item, found in zip(in_order, sums, strict=True)}
    put(handle, _header(layout, metadata, digests), 0)
    return len(head) + layout.size


def header_cost(item: Item) -> int:
    """Return about how many bytes of header a tensor takes, its digest included."""
    return 2 * len(item.name.encode("utf-8", "replace")) + 180 + 8 * len(item.spec.shape)


def check(items: Sequence[Item], metadata: Mapping[str, str]) -> None:
    """Refuse what the format can't hold, before anything is written.

    Raises:
        UsageError: a name or an element type that the format can't hold, or more names than its header takes.
    """
    _header(_layout(items), metadata, {})


class _Layout(NamedTuple):
    """Where the values of each tensor begin, and what the header says of it; the size of all values."""

    starts: dict[str, int]
    entries: dict[str, dict[str, object]]
    size: int


def _layout(items: Sequence[Item]) -> _Layout:
    """Return the layout: wide elements lie first, so that all are aligned; the header keeps the order of the items."""
    starts: dict[str, int] = {}
    at = 0
    for item in sorted(items, key=lambda item: -item.spec.dtype.itemsize):
        starts[item.name] = at
        at += item.spec.nbytes
    entries: dict[str, dict[str, object]] = {}
    for item in items:
        if item.name == "__metadata__":
            raise UsageError("a tensor can't be called __metadata__ in a safetensors file; rename it")
        start, spec = starts[item.name], item.spec
        entries[item.name] = {
            "dtype": _type_name(item), "shape": list(spec.shape), "data_offsets": [start, start + spec.nbytes]
        }  # fmt: skip
    return _Layout(starts, entries, at)


def _header(layout: _Layout, metadata: Mapping[str, str], digests: Mapping[str, str]) -> bytes:
    """Return length and JSON header, padded with spaces so that the values are aligned.

    Its size is the same with any digests; where there are none yet, something as long stands in their place.
    """
    stated = {name: digests.get(name, _NOTHING_YET) for name in layout.entries}
    facts = {**metadata, DIGESTS: json.dumps(stated, separators=(",", ":"), ensure_ascii=False)}
    header = {"__metadata__": facts, **layout.entries}
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        odd = next((n for n in (*header, *metadata, *metadata.values()) if not _is_unicode(n)), "")
        raise UsageError(f"a name is not valid Unicode ({printable(odd, 80)}); rename it") from error
    text += b" " * (-len(text) % _ALIGN)
    if len(text) > MAX_HEADER:
        raise UsageError(
            f"{len(layout.entries)} tensors need a safetensors header of {len(text)} bytes, the format's limit is "
            f"{MAX_HEADER}: write several files (shard_size, --shard-size), or a .pt file"
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
