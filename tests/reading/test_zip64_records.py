"""Sizes and places that lie in the 64-bit fields of a zip archive are read from there."""

import struct
import zipfile

import numpy as np
import pytest
import torch

import torchgraft as tg

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.randn(3)}


@pytest.fixture
def rewritten(tmp_path, monkeypatch):
    """A torch archive whose directory says every size and place in 64-bit fields, as it does of more than 4 GiB."""
    torch.save(STATE, tmp_path / "plain.pt")
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(tmp_path / "wide.pt", "w") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info))
    return tmp_path / "wide.pt"


def test_a_torch_archive_is_read(rewritten):
    with tg.open_checkpoint(rewritten) as source:
        found = {name: source.read(source.networks[0].path, name) for name in STATE}
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_a_numpy_archive_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in STATE.items()})
    with tg.open_checkpoint(tmp_path / "a.npz") as source:
        assert torch.equal(source.read(source.networks[0].path, "a.weight"), STATE["a.weight"])


@pytest.mark.parametrize("spoil", [b"\x02\x00", b"\x01\x00"])
def test_a_record_that_lacks_its_field_is_refused(rewritten, spoil):
    """Another kind of field in its place, or one that is said to be shorter than what it must hold."""
    data = bytearray(rewritten.read_bytes())
    at = data.index(b"PK\x01\x02")
    name, extra = struct.unpack_from("<HH", data, at + 28)
    assert extra
    field = at + 46 + name
    assert data[field : field + 2] == b"\x01\x00"
    data[field : field + 4] = spoil + (extra - 4 if spoil == b"\x02\x00" else 8).to_bytes(2, "little")
    rewritten.write_bytes(data)
    with pytest.raises(tg.CheckpointError, match="its ZIP64 field is missing or too short"):
        tg.open_checkpoint(rewritten)
