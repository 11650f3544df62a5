"""Finds the format from the bytes; the name never grants anything, it can only forbid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torchgraft.reading.containers.tar import looks_like_tar
from torchgraft.reading.containers.zipdir import ZipArchive
from torchgraft.reading.containers.zipentries import has_archive_at_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchgraft.reading.disk.files import Window
    from torchgraft.reading.finding.contents import Contents

_PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR", b"\x04\x22\x4d\x18": "lz4",
}  # fmt: skip
# How pickles of protocols 0 and 1 begin, which have no header: a mark, a container, a name of a class.
_TEXT_PICKLE = re.compile(
    rb"\((?:dp?\d*\n|lp?\d*\n|[dl][.S(VpI]|i[\w.]+\n)|[}\]](?:q.|\.|[(])|c[\w.]+\n[\w.<>]+\n|L\d+L\n\."
)
# Keys of the fields that follow the version in a ModelProto: producer's name and version, domain, model's version, texts,
# graph, operator sets, facts. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_FIELDS = {b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42", b"\x72"}
_LINES = re.compile(rb"[\t\n\r -~]{8}")
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")


def read_file(window: Window) -> Contents:
    """Return the contents of a checkpoint file of any format."""
    if not window.size:
        raise window.corrupt("empty file (0 bytes)")
    head = window.read(0, min(window.size, 512))
    if not head.startswith(b"PK") and has_archive_at_end(window):
        raise window.corrupt("two formats in one file: other bytes before the archive, which readers would take unlike")
    reader = _reader(head)
    if reader is None:
        return _last_resort(window, head)
    _check_name(window, reader)
    return reader(window)


def _reader(head: bytes) -> Callable[[Window], Contents] | None:
    signs: tuple[tuple[bool, Callable[[Window], Contents]], ...] = (
        (is_safetensors(head), _safetensors),
        (head.startswith((b"PK\3\4", b"PK\5\6")), _zip),
        (head[:1] == b"\x80" and head[1:2] != b"\0", _legacy),
        (head.startswith(b"\x93NUMPY"), _npy),
        (head.startswith(b"GGUF"), _gguf),
        (head.startswith(b"\x89HDF\r\n\x1a\n"), _hdf5),
        (looks_like_tar(head), _tar),
        (_TEXT_PICKLE.match(head) is not None, _legacy),
        (_is_onnx(head), _onnx),
        (_is_msgpack(head), _flax),
        (_nearly_safetensors(head), _safetensors),
    )
    return next((reader for fits, reader in signs if fits), None)


def is_safetensors(head: bytes) -> bool:
    """Whether it begins with a length of less than 4 GiB and a JSON table, whatever the bytes of the length may look like.

    Pickles and archives have other things where the length has zeros: one of protocol 2 to 5 can't go on with six zeros.
    """
    return head[4:8] == bytes(4) and head[8:9] == b"{"


def _nearly_safetensors(head: bytes) -> bool:
    """Whether it is best called a broken safetensors file: a length that may be false, and what could begin a JSON table."""
    if not any(head[:8]) or _LINES.fullmatch(head[:8]):
        return False
    return head[8:9] == b"{" or (head[4:8] == bytes(4) and head[8:9] in (b" ", b"\xef"))


def _is_onnx(head: bytes) -> bool:
    """Whether it begins as an ONNX model: field 1, the version of the format, and then another field of a model."""
    return head[:1] == b"\x08" and b"\0" < head[1:2] < b"\x80" and head[2:3] in _MODEL_FIELDS


def _is_msgpack(head: bytes) -> bool:
    """Whether it begins as a msgpack map whose first key is text."""
    at = 1 if 0x81 <= head[0] <= 0x8F else {0xDE: 3, 0xDF: 5}.get(head[0])
    return at is not None and len(head) > at and (0xA0 <= head[at] <= 0xBF or head[at] in (0xD9, 0xDA, 0xDB))


def _zip(window: Window) -> Contents:
    archive = ZipArchive(window)
    names = archive.entries
    roots = sorted({n.partition("/")[0] for n in names})
    pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(pickles) > 1 or (pickles and len(roots) > 1):
        raise window.corrupt(f"more than one root folder in the archive: {', '.join(roots[:4])}")
    if pickles:
        from torchgraft.reading.formats.torch_zip import read_torch_zip

        return read_torch_zip(archive, pickles[0].rpartition("/")[0])
    if any(n.endswith("/archive_format") or n == "archive_format" for n in names):
        from torchgraft.reading.formats.pt2 import read_pt2

        return read_pt2(archive)
    if {"config.json", "model.weights.h5"} <= names.keys():
        raise window.unsupported("a Keras archive (.keras), not a checkpoint of PyTorch")
    if any(n.endswith(".npy") for n in names):
        from torchgraft.reading.formats.numpy_files import read_npz

        return read_npz(archive)
    raise window.unsupported("a zip archive without data.pkl: no checkpoint")


def _legacy(window: Window) -> Contents:
    from torchgraft.reading.formats.torch_legacy import read_torch_legacy

    return read_torch_legacy(window)


def _tar(window: Window) -> Contents:
    from torchgraft.reading.formats.torch_tar import read_torch_tar

    return read_torch_tar(window)


def _npy(window: Window) -> Contents:
    from torchgraft.reading.formats.numpy_files import read_npy

    return read_npy(window)


def _gguf(window: Window) -> Contents:
    from torchgraft.reading.formats.gguf import read_gguf

    return read_gguf(window)


def _hdf5(window: Window) -> Contents:
    from torchgraft.reading.formats.hdf5 import read_hdf5

    return read_hdf5(window)


def _onnx(window: Window) -> Contents:
    from torchgraft.reading.formats.onnx import read_onnx

    return read_onnx(window)


def _flax(window: Window) -> Contents:
    from torchgraft.reading.formats.flax import read_flax

    return read_flax(window)


def _safetensors(window: Window) -> Contents:
    from torchgraft.reading.formats.safetensors import read_safetensors

    return read_safetensors(window)


def _check_name(window: Window, reader: Callable[[Window], Contents]) -> None:
    """Refuse pickles under a name that promises a format without any."""
    if reader in (_zip, _legacy, _tar) and window.file.path.lower().endswith(".safetensors"):
        raise window.corrupt(
            "named .safetensors, but the bytes are of another format, which is not what the name promises"
        )


def _last_resort(window: Window, head: bytes) -> Contents:
    """Say what the file is, if not a checkpoint."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        raise window.corrupt("a git-lfs pointer, not the file itself: run `git lfs pull` in its folder")
    if text.startswith(_HTML):
        raise window.corrupt("a web page (HTML or XML), not a checkpoint: the download went wrong; fetch it again")
    for sign, name in _PACKED.items():
        if head.startswith(sign):
            raise window.unsupported(f"compressed with {name}; unpack it first")
    if head.startswith(b"PK"):
        raise window.corrupt(f"truncated zip archive of {window.size} bytes")
    if window.size < 9:
        count = f"{window.size} byte{'s' * (window.size != 1)}"
        raise window.corrupt(
            f"truncated: {count}, while the shortest header has 8 and its length would have to be over 0"
        )
    length = int.from_bytes(head[:8], "little")
    raise window.corrupt(
        f"not a checkpoint of a known format: it begins with {head[:8].hex()} (as a safetensors header length that is {length})"
    )
