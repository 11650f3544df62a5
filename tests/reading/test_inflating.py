"""Compressed records are read in pieces, each byte inflated once, and are compared at their end."""

from __future__ import annotations

import zipfile
import zlib

import numpy as np
import pytest
import torch

import torchgraft as tg
from torchgraft.reading.containers import zip_records


def packed(tmp_path, tensors):
    """Return a torch file whose records are compressed."""
    plain, path = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save(tensors, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return path


def test_pieces_in_any_order_are_the_whole(tmp_path):
    value = torch.randn(300_000)
    raw = value.numpy().tobytes()
    with tg.open_checkpoint(packed(tmp_path, {"w": value, "part": torch.randn(9)[2:5]})) as source:
        for start, count in ((0, 1000), (1000, 500_000), (7, 20), (501_000, len(raw) - 501_000), (0, len(raw))):
            piece = bytearray(count)
            source.read_into("", "w", memoryview(piece), start)
            assert piece == raw[start : start + count]
        assert source.read("", "part").shape == (3,)


def test_each_byte_is_inflated_once(tmp_path, monkeypatch):
    came = []

    class Counting(zip_records.Inflating):
        def _more(self, most):
            data = super()._more(most)
            came.append(len(data))
            return data

    monkeypatch.setattr(zip_records, "Inflating", Counting)
    value = torch.randn(500_000)
    with tg.open_checkpoint(packed(tmp_path, {"w": value})) as source:
        for start in range(0, 2_000_000, 100_000):
            source.read_into("", "w", memoryview(bytearray(100_000)), start)
    assert sum(came) == 2_000_000


@pytest.mark.parametrize("part", [slice(None), slice(3, 9)])
@pytest.mark.parametrize("how", ["checksum", "longer", "shorter"])
def test_what_is_wrong_is_found_at_the_end(tmp_path, how, part):
    value = torch.randn(5000)
    path = packed(tmp_path, {"w": value[part]})
    with zipfile.ZipFile(path) as archive:
        record = next(i for i in archive.infolist() if i.filename.endswith("data/0"))
    raw = bytearray(path.read_bytes())
    for at in (record.header_offset, raw.rindex(record.filename.encode()) - 46):
        local = at == record.header_offset
        crc, size = (14, 22) if local else (16, 24)
        if how == "checksum":
            raw[at + crc] ^= 1
        if how != "checksum":
            stated = record.file_size + (4 if how == "longer" else -4)
            raw[at + size : at + size + 4] = stated.to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(tg.CorruptCheckpointError), tg.open_checkpoint(path) as source:
        source.read("", "w")


def test_more_after_the_end_is_refused(tmp_path):
    path = tmp_path / "more.npz"
    np.savez_compressed(path, w=np.arange(1000.0))
    with zipfile.ZipFile(path) as archive:
        record = archive.infolist()[0]
        data = archive.read(record)
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    longer = engine.compress(data + b"more") + engine.flush()
    with zipfile.ZipFile(tmp_path / "model.npz", "w", zipfile.ZIP_STORED) as new:
        new.writestr(record.filename, longer)
    made = bytearray((tmp_path / "model.npz").read_bytes())
    for at, method, crc, size in ((0, 8, 14, 22), (made.rindex(b"PK\1\2"), 10, 16, 24)):
        made[at + method : at + method + 2] = b"\x08\0"
        made[at + crc : at + crc + 4] = zlib.crc32(data).to_bytes(4, "little")
        made[at + size : at + size + 4] = len(data).to_bytes(4, "little")
    (tmp_path / "model.npz").write_bytes(made)
    with tg.open_checkpoint(tmp_path / "model.npz") as source, pytest.raises(tg.CorruptCheckpointError, match="size"):
        source.read("", "w")
