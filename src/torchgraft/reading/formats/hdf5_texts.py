"""Texts of variable length in attributes of HDF5 objects, read without the library, which loops over broken ones.

Source of the format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, sections III.E (global heap),
IV.A.1.a (object headers, version 1), IV.A.2.m (attributes) and IV.A.2.q (continuations).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from struct import Struct

from torchgraft.reading.disk.files import Window

MAX_BYTES = 256 << 20  # of headers, heaps and texts of one file together
_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_HEADER = Struct("<BxHII4x")  # version, messages, links, bytes of messages
_MESSAGE = Struct("<HHB3x")  # kind, bytes, flags
_BLOCK = Struct("<QQ")  # address, bytes
_SIZES = Struct("<BxHHH")  # version, bytes of name, of datatype, of dataspace
_HEAP = Struct("<4sB3xQ")  # signature, version, bytes
_OBJECT = Struct("<HH4xQ")  # number, links, bytes
_ELEMENT = Struct("<IQI")  # bytes, address of the heap, number in it
_SHARED = 2


class Texts:
    """The texts of one file, whose addresses and sizes have 8 bytes and count from the start of `window`."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self._left = MAX_BYTES
        self._heap = cache(self._heap_at)

    def of(self, header: int, attribute: str) -> list[str]:
        """Return the texts that an attribute of the object at `header` lists; none where it isn't kept beside the object.

        Raises CorruptCheckpointError where the file breaks off or contradicts itself, LimitExceededError where it asks for too
        much.
        """
        for data in self._attributes(header):
            version, *sizes = _SIZES.unpack(data[: _SIZES.size])
            start = _SIZES.size + (version == 3)
            name, kind, space = (-(-size // 8) * 8 for size in sizes) if version == 1 else sizes
            if data[start : start + sizes[0]].rstrip(b"\0") == attribute.encode():
                listed = data[start + name + kind + space :]
                whole = len(listed) // _ELEMENT.size * _ELEMENT.size
                return [self._text(*element) for element in _ELEMENT.iter_unpack(listed[:whole])]
        return []

    def _attributes(self, header: int) -> Iterator[bytes]:
        """Yield the messages about attributes of an object header of version 1, the only one in which Keras writes."""
        version, count, _, size = _HEADER.unpack(self._read(header, _HEADER.size))
        if version != 1:
            return
        blocks = [(header + _HEADER.size, size)]
        for address, size in blocks:
            block, at = self._read(address, size), 0
            while at + _MESSAGE.size <= size and count:
                kind, length, flags = _MESSAGE.unpack_from(block, at)
                data = block[at + _MESSAGE.size : at + _MESSAGE.size + length]
                at, count = at + _MESSAGE.size + length, count - 1
                if kind == _CONTINUATION and length >= _BLOCK.size:
                    blocks.append(_BLOCK.unpack_from(data))
                elif kind == _ATTRIBUTE and len(data) >= _SIZES.size and not flags & _SHARED:
                    yield data

    def _text(self, size: int, address: int, number: int) -> str:
        if not size:
            return ""
        objects = self._heap(address)
        if number not in objects or objects[number][1] < size:
            raise self.window.corrupt(
                f"broken HDF5 file: no text of {size} bytes at number {number} of the heap at {address}"
            )
        return self._read(objects[number][0], size).decode("utf-8", "replace")

    def _heap_at(self, address: int) -> dict[int, tuple[int, int]]:
        """Return where the objects of a global heap lie, and their sizes in bytes, by their numbers."""
        signature, version, size = _HEAP.unpack(self._read(address, _HEAP.size))
        if (signature, version) != (b"GCOL", 1):
            raise self.window.corrupt(f"broken HDF5 file: no heap at byte {address}")
        block, at = self._read(address, size), _HEAP.size
        found = {}
        while at + _OBJECT.size <= size:
            number, _, length = _OBJECT.unpack_from(block, at)
            at += _OBJECT.size
            if not number:
                break
            if length > size - at:
                raise self.window.corrupt(f"broken HDF5 file: object {number} of the heap at byte {address} leaves it")
            found[number] = (address + at, length)
            at += -(-length // 8) * 8
        return found

    def _read(self, address: int, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise self.window.too_large(f"names of layers for which more than {MAX_BYTES >> 20} MiB must be read")
        return self.window.read(address, size)
