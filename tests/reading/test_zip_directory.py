"""Directories read in runs of entries, and tensors made from runs of opcodes: the outcome is that of the plain ways."""

import io
import random
import warnings
import zipfile

import pytest
import torch

from torchgraft.core.errors import CheckpointError
from torchgraft.reading import open_checkpoint
from torchgraft.reading.containers import zip_directory
from torchgraft.reading.formats.torch_zip import ZipStorages
from torchgraft.reading.pickles.inert import TensorRef


def outcome(path):
    try:
        with open_checkpoint(path) as source:
            return [
                (n.path, n.role, dict(n.specs), n.shared, [str(source.read(n.path, name).tolist()) for name in n.specs])
                for n in source.networks
            ], source.warnings
    except CheckpointError as error:
        return type(error), str(error)


def described(self, key, facts):
    """Storages that make no tensor at once."""
    return TensorRef(
        self.storage(facts.kind, key, facts.location, facts.numel), facts.offset, facts.shape, facts.stride
    )


@pytest.fixture
def plain(monkeypatch):
    """The outcome entry by entry and tensor by tensor."""

    def run(path):
        with monkeypatch.context() as patch:
            patch.setattr(zip_directory, "_RUN", 1)
            patch.setattr(ZipStorages, "tensor", described)
            return outcome(path)

    return run


def trees():
    state = {f"layers.{n}.weight": torch.arange(n % 5 * 3.0 + n).reshape(-1, 1) for n in range(120)}
    base = torch.arange(40.0)
    views = {f"v{n}": base[n : n + 4].view(2, 2).t() for n in range(20)}
    kinds = {
        f"k{n}": torch.ones(3).to(kind) for n, kind in enumerate((torch.half, torch.long, torch.bool, torch.cfloat))
    }
    return {
        "state": state,
        "views": state | views | kinds,
        "tied": state | {"again": state["layers.100.weight"], "alias": state["layers.90.weight"].view(-1)},
        "parts": {"model": state, "ema": {k: v + 1 for k, v in state.items()}, "optimizer": {"state": views}},
    }


def saved(tree, path):
    torch.save(tree, path)
    return path


def rewritten(path, change):
    """Copy an archive record by record, changed by `change(name, data)`; None leaves a record out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("name", trees())
def test_sound_files(name, tmp_path, plain):
    path = saved(trees()[name], tmp_path / "a.pt")
    found = outcome(path)
    assert found == plain(path)
    assert isinstance(found[0], list)


CHANGES = {
    "missing": lambda name, data: None if name.endswith("data/100") else data,
    "short": lambda name, data: data[:-1] if name.endswith("data/100") else data,
    "big-endian": lambda name, data: b"big" if name.endswith("byteorder") else data,
    "other storage": lambda name, data: data.replace(b"X\x03\0\0\x00100", b"X\x03\0\0\x00101"),
    "other type": lambda name, data: data.replace(b"FloatStorage", b"LongStorage\n"[:12]),
    "odd device": lambda name, data: data.replace(b"X\x03\0\0\0cpu", b"X\x03\0\0\0c?u"),
    "twice": lambda name, data: data.replace(b"layers.99.", b"layers.98."),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_files(change, tmp_path, plain):
    path = rewritten(saved(trees()["tied"], tmp_path / "a.pt"), change)
    assert outcome(path) == plain(path)


def test_directories_of_all_kinds_of_entries(tmp_path, plain):
    dice = random.Random(5)  # noqa: S311
    for number in range(60):
        path = tmp_path / f"{number}.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for at in range(dice.randrange(1, 60)):
                info = zipfile.ZipInfo("a" * dice.choice((1, 2, 2, 2, 9)) + f"{at}.npy" + "é" * (at % 7 == 3))
                info.compress_type = dice.choice((0, 0, 0, 8))
                info.comment = b"c" * dice.choice((0, 0, 3))
                info.extra = dice.choice((b"", b"", b"\x99\x99\4\0abcd"))
                info.external_attr = dice.choice((0, 0o600 << 16))
                archive.writestr(info, npy(at))
        assert outcome(path) == plain(path)
        raw = bytearray(path.read_bytes())
        raw[dice.randrange(raw.rfind(b"PK\1\2"), len(raw))] ^= 1 << dice.randrange(8)
        path.write_bytes(raw)
        assert outcome(path) == plain(path)


def npy(number):
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.full(3, float(number)))
    return buffer.getvalue()
