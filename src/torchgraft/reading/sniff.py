"""Finds the format from the bytes; the name never grants anything, it can only forbid."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module

from torchgraft.core.errors import printable
from torchgraft.reading.containers.tar import looks_like_tar
from torchgraft.reading.containers.zip_archive import ZipArchive
from torchgraft.reading.containers.zip_directory import has_archive_at_end
from torchgraft.reading.contents import Contents, unpack_hint
from torchgraft.reading.disk.files import Window

_PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR", b"\x04\x22\x4d\x18": "lz4", b"\x5d\0\0\x80\0": "lzma",
    b"\x78\x01": "zlib", b"\x78\x5e": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib",
}  # fmt: skip
# How other kinds of files begin that are taken for checkpoints, by what they are.
_OTHERS = {
    b"%PDF-": "a PDF", b"\x89PNG": "an image", b"\xff\xd8\xff": "an image",
    b"MATLAB 5": "a MATLAB file of version 5: save it with -v7.3, which is HDF5",
}  # fmt: skip
# What the identifier of a flatbuffer, behind its first four bytes, says of it.
_FLATBUFFERS = {b"TFL3": "a model of TensorFlow Lite", b"ET12": "a program of ExecuTorch"}
# How pickles of protocols 0 and 1 begin, which have no header: a mark, a container, a name of a class.
_TEXT_PICKLE = re.compile(
    rb"\((?:dp?\d*\n|lp?\d*\n|[dl][.S(VpI]|i[\w.]+\n)|[}\]](?:q.|\.|[(])|c[\w.]+\n[\w.<>]+\n|L\d+L\n\."
)
# Keys of the fields that follow the version in a ModelProto: producer's name and version, domain, model's version, texts,
# graph, operator sets, facts. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_FIELDS = {b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42", b"\x72"}
_LINES = re.compile(rb"[\t\n\r -~]{8}")
_HDF5, _HDF5_READER = b"\x89HDF\r\n\x1a\n", "hdf5.read_hdf5"
_PICKLED = ("zip", "torch_legacy.read_torch_legacy", "torch_tar.read_torch_tar")
_HTML = ("<!", "<html", "<head", "<?xml", "<error")


def read_file(window: Window) -> Contents:
    """Return the contents of a checkpoint file of any format."""
    if not window.size:
        raise window.corrupt("empty file (0 bytes)")
    head = window.read(0, min(window.size, 512))
    if not head.startswith(b"PK") and has_archive_at_end(window):
        raise window.corrupt("two formats in one file: other bytes before the archive, which readers would take unlike")
    name = _format_of(head) or _behind_user_block(window)
    if not name:
        return _refuse_unknown(window, head)
    _check_name(window, name)
    if name == "zip":
        return _zip(window)
    module, _, function = name.partition(".")  # imported only now: most programs read files of one format
    read: Callable[[Window], Contents] = getattr(import_module(f"torchgraft.reading.formats.{module}"), function)
    return read(window)


def _format_of(head: bytes) -> str:
    """Return the module of a format and its function, "" where the bytes are of none; "zip" holds one of several."""
    signs = (
        (is_safetensors(head), "safetensors.read_safetensors"),
        (head.startswith((b"PK\3\4", b"PK\5\6")), "zip"),
        (head[:1] == b"\x80" and head[1:2] != b"\0", "torch_legacy.read_torch_legacy"),
        (head.startswith(b"\x93NUMPY"), "numpy_files.read_npy"),
        (head.startswith(b"GGUF"), "gguf.read_gguf"),
        (head.startswith(_HDF5), _HDF5_READER),
        (looks_like_tar(head), "torch_tar.read_torch_tar"),
        (_TEXT_PICKLE.match(head) is not None, "torch_legacy.read_torch_legacy"),
        (_is_onnx(head), "onnx.read_onnx"),
        (_is_msgpack(head), "flax.read_flax"),
        (_nearly_safetensors(head), "safetensors.read_safetensors"),
    )
    return next((name for fits, name in signs if fits), "")


def _behind_user_block(window: Window) -> str:
    """Return the reader of HDF5 where a file begins with bytes of another program's: 512, or twice as many again and again.

    Source: the format's specification, "Disk Format: Level 0A - Format Signature and Superblock".
    """
    at = 512
    while at + len(_HDF5) <= window.size:
        if window.read(at, len(_HDF5)) == _HDF5:
            return _HDF5_READER
        at *= 2
    return ""


def is_safetensors(head: bytes) -> bool:
    """Whether it begins with a length of less than 4 GiB and a JSON table, whatever the bytes of the length may look like.

    Pickles and archives have other things where the length has zeros: one of protocol 2 to 5 can't go on with six zeros.
    """
    return head[4:8] == bytes(4) and head[8:9] == b"{"


def _nearly_safetensors(head: bytes) -> bool:
    """Whether it is best reported as a broken safetensors file: a length, right or not, then what may begin a JSON table."""
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
        raise window.unsupported(
            "a Keras archive (.keras), not a checkpoint: unpack its model.weights.h5 and name that"
        )
    if any(n.endswith(".npy") for n in names):
        from torchgraft.reading.formats.numpy_files import read_npz

        return read_npz(archive)
    if "serialized_exported_program.json" in names:
        raise window.unsupported(
            "a pt2 archive (torch.export) in an older layout; unpack it, and load its serialized_state_dict.pt"
        )
    if "data.pkl" in names:
        raise window.unsupported(
            "data.pkl lies at the top of the archive, not in a folder: pack the folder around it, too"
        )
    raise window.unsupported(f"a zip archive without data.pkl: no checkpoint{unpack_hint(names)}")


def _check_name(window: Window, name: str) -> None:
    """Refuse pickles under a name that promises a format without any."""
    if name in _PICKLED and window.file.path.lower().endswith(".safetensors"):
        raise window.corrupt(
            "named .safetensors, but the bytes are of another format, which is not what the name promises"
        )


def _refuse_unknown(window: Window, head: bytes) -> Contents:
    """Say what the file is, if not a checkpoint."""
    text = _text(head)
    if text.startswith("version https://git-lfs"):
        raise window.corrupt("a git-lfs pointer, not the file itself: run `git lfs pull` in its folder")
    if text.lower().startswith(_HTML):
        raise window.corrupt("a web page (HTML or XML), not a checkpoint: the download went wrong; fetch it again")
    for sign, name in _PACKED.items():
        if head.startswith(sign):
            raise window.unsupported(f"compressed with {name}; unpack it first")
    other = next((name for sign, name in _OTHERS.items() if head.startswith(sign)), _FLATBUFFERS.get(head[4:8], ""))
    if other:
        raise window.corrupt(f"not a checkpoint, but {other}")
    if head.startswith(b"PK"):
        raise window.corrupt(f"truncated zip archive of {window.size} bytes")
    if window.size < 9:
        count = f"{window.size} byte{'s' * (window.size != 1)}"
        raise window.corrupt(
            f"truncated: {count}, while the shortest header has 8 and its length would have to be over 0"
        )
    if text:
        raise window.corrupt(f"not a checkpoint, but a text that begins '{printable(text.splitlines()[0], 60)}'")
    length = int.from_bytes(head[:8], "little")
    zeros = "; zeros are what a copy or download leaves that was broken off" * (not any(head))
    raise window.corrupt(
        f"not a checkpoint of a known format: it begins with {head[:8].hex()} (as a safetensors header length that is "
        f"{length}){zeros}"
    )


def _text(head: bytes) -> str:
    """Return the beginning of a text, "" where the bytes are none."""
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = head.decode("utf-16" if wide else "utf-8", "ignore").lstrip("\ufeff").strip()
    whole = len(text) * (1 + wide) > len(head) // 2
    return text if whole and all(c.isprintable() or c.isspace() for c in text) else ""
