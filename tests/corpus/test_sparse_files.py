"""Huge files that are nearly all hole: what they say of themselves would fill the memory, or be read for hours."""

from __future__ import annotations

import os
import resource
import struct
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from corpus_tools import W, gguf, legacy, string, torch_zip

from torchgraft.core.errors import CheckpointError
from torchgraft.reading import open_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
SIZE = 1 << 40


def zip_end(count, start=1000):
    """The end of an archive whose directory has `count` entries and fills all of the file."""
    length = SIZE - start - 98
    wide = struct.pack("<4sQHHII4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
    wide += struct.pack("<4sIQI", b"PK\6\7", 0, SIZE - 98, 1)
    short = min(count, 0xFFFF)
    return wide + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, short, short, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def gguf_head(tensors, pairs, rest=b""):
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs) + rest


MAGIC = legacy()[:27]
HOLES = {
    "zip_directory": ("a.pt", torch_zip()[:1000], zip_end(7), "directory"),
    "zip_entries": ("a.pt", torch_zip()[:1000], zip_end(1 << 32), "directory"),
    "zip_alone": ("a.pt", torch_zip(), b"", "truncated"),
    "gguf_array": ("a.gguf", gguf_head(1, 1, string("a") + struct.pack("<IIQ", 9, 0, 1 << 38)), b"", "array"),
    "gguf_texts": ("a.gguf", gguf_head(1, 1, string("a") + struct.pack("<IIQ", 9, 8, 1 << 36)), b"", "array"),
    "gguf_text": ("a.gguf", gguf_head(1, 1, string("a") + struct.pack("<IQ", 8, 1 << 38)), b"", "bytes"),
    "gguf_key": ("a.gguf", gguf_head(1, 1, struct.pack("<Q", 1 << 38)), b"", "key"),
    "gguf_tensors": ("a.gguf", gguf_head(1 << 34, 0), b"", "tensors"),
    "gguf_pairs": ("a.gguf", gguf_head(0, 1 << 34), b"", "duplicate"),
    "gguf_data": ("a.gguf", gguf([("w", (3, 2), 0, 0)]), b"", "belong to nothing"),
    "onnx": ("a.onnx", b"\x08\x08\x12\x02ab", b"", "number 0"),
    "msgpack_text": ("a.msgpack", b"\x82\xa1w\xc0\xdb\xff\xff\xff\xff", b"", "text of"),
    "msgpack_bytes": ("a.msgpack", b"\x81\xa1w\xc6\xff\xff\xff\xff", b"", "after"),
    "index": ("model.safetensors.index.json", b'{"weight_map":{"', b"", "an index of"),
    "legacy": ("a.pth", MAGIC, b"", "opcode"),
    "legacy_storages": ("a.pth", legacy(), b"", "after"),
    "pickle": ("a.pt", b"\x80\x02}", b"", "opcode"),
    "safetensors": ("a.safetensors", struct.pack("<Q", 2) + b"{}", b"", "belong to no tensor"),
    "zeros": ("a.pt", b"", b"", "not a checkpoint"),
}


@pytest.mark.parametrize("case", HOLES.values(), ids=HOLES)
def test_holes_cost_nothing(case, tmp_path):
    name, head, tail, words = case
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(head)
        file.truncate(SIZE - len(tail))
        file.seek(SIZE - len(tail))
        file.write(tail)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    os.truncate(path, 0)


def test_the_table_of_a_distributed_checkpoint(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / ".metadata").write_bytes(W)
    os.truncate(tmp_path / ".metadata", SIZE)
    with pytest.raises(CheckpointError, match="pickle of 1099511627776 bytes"):
        open_checkpoint(tmp_path)
