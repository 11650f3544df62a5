"""Folders for torch.distributed.checkpoint: torch loads them, torchgraft reads them, and they are whole or not there."""

import errno
import io
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

import torchgraft as tg


def state():
    g = torch.Generator().manual_seed(2)
    return {
        "a.weight": torch.randn(40, 6, generator=g), "a.bias": torch.randn(6, generator=g).bfloat16(),
        "count": torch.tensor(7), "mask": torch.tensor([True, False]), "empty": torch.empty(0, 3),
        "turned": torch.randn(3, 5, generator=g).t(),
    }  # fmt: skip


def loaded(path, like):
    """Return what torch's own loader makes of the folder."""
    into = {name: torch.zeros_like(value) for name, value in like.items()}
    dcp.load(into, checkpoint_id=path)
    return into


def inside(folder):
    return sorted(path.name for path in folder.iterdir())


def same(found, wanted):
    assert set(found) == set(wanted)
    assert all(torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted)


@pytest.mark.parametrize("shard_size", [None, 300])
def test_torch_loads_what_save_writes(tmp_path, shard_size):
    saved = tg.save(tmp_path / "out", state(), {"note": "x"}, file_format="dcp", shard_size=shard_size)
    assert saved.format == "dcp"
    assert len(saved.files) == (1 if shard_size is None else 4)
    assert all(Path(f).is_file() for f in saved.files)
    same(loaded(tmp_path / "out", state()), state())
    with tg.open_checkpoint(tmp_path / "out") as source:
        assert source.metadata["note"] == "x"
        same({n: source.read("", n) for n in source.networks[0].specs}, state())


def test_a_model_goes_there_and_back_with_its_ties_and_versions(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    saved = tg.save_model(tmp_path / "out", model, file_format="dcp")
    assert "2.weight" in saved.notes[0]
    same(loaded(tmp_path / "out", model.state_dict()), model.state_dict())
    again = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    again[2].weight = again[0].weight
    tg.load(again, tmp_path / "out")
    same(again.state_dict(), model.state_dict())
    with tg.open_checkpoint(tmp_path / "out") as source:
        assert source.metadata["versions"][""]["1"] == {"version": 2}


def test_any_checkpoint_is_converted_to_it_and_back(tmp_path):
    torch.save({"state_dict": state(), "epoch": 3}, tmp_path / "in.pt")
    made = tg.convert(tmp_path / "in.pt", tmp_path / "out", file_format="dcp", dtype="float16")
    assert made.tensors == 6
    wanted = {n: v.half() if v.is_floating_point() else v for n, v in state().items()}
    same(loaded(tmp_path / "out", wanted), wanted)
    tg.convert(tmp_path / "out", tmp_path / "back.safetensors")
    with tg.open_checkpoint(tmp_path / "back.safetensors") as source:
        assert source.metadata["epoch"] == 3
        same({n: source.read("", n) for n in source.networks[0].specs}, wanted)


@pytest.mark.parametrize("shard_size", [None, 300])
def test_values_are_in_memory_one_tensor_at_a_time_for_each_file(tmp_path, monkeypatch, shard_size):
    from torchgraft.writing import dcp as writer

    values = []
    real = writer._value

    def counted(*given):
        values.append(real(*given))
        return values[-1]

    monkeypatch.setattr(writer, "_value", counted)
    told = []
    torch.save(state(), tmp_path / "in.pt")
    saved = tg.convert(
        tmp_path / "in.pt",
        tmp_path / "out",
        file_format="dcp",
        shard_size=shard_size,
        progress=lambda done, total: told.append((done, total)),
    )
    assert len(values) == 6
    assert len({value.data_ptr() for value in values if value.numel()}) <= len(saved.files)
    assert told[-1][0] == told[-1][1]
    same(loaded(tmp_path / "out", state()), state())


def test_what_stands_there_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    tg.save(tmp_path / "out", state(), file_format="dcp")
    before = inside(tmp_path / "out")
    with pytest.raises(tg.UsageError, match="exists; a distributed checkpoint is written to a new folder"):
        tg.save(tmp_path / "out", state(), file_format="dcp")
    assert inside(tmp_path / "out") == before
    assert inside(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError(), KeyboardInterrupt()])
def test_nothing_is_left_where_it_fails(tmp_path, monkeypatch, error):
    from torchgraft.writing import dcp as writer

    def broken(*given):
        raise error

    monkeypatch.setattr(writer, "_value", broken)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else tg.WriteError):
        tg.save(tmp_path / "out", state(), file_format="dcp")
    assert inside(tmp_path) == []


def test_a_full_disk_is_called_one(tmp_path, monkeypatch):
    """Torch only says that an archive can't be closed."""
    from torch.distributed.checkpoint import filesystem

    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    real = filesystem.FileSystem.create_stream

    @contextmanager
    def full(self, path, mode):
        if str(path).endswith(".distcp"):
            yield Full(path, mode)
        else:
            with real(self, path, mode) as stream:
                yield stream

    monkeypatch.setattr(filesystem.FileSystem, "create_stream", full)
    with pytest.raises(tg.WriteError, match=r"out can't be written: the disk is full \(No space"):
        tg.save(tmp_path / "out", state(), file_format="dcp")
    assert inside(tmp_path) == []


def test_a_digest_of_the_source_is_compared_on_the_way(tmp_path):
    tg.save(tmp_path / "in.safetensors", state())
    data = bytearray((tmp_path / "in.safetensors").read_bytes())
    data[-3] ^= 1
    (tmp_path / "in.safetensors").write_bytes(data)
    with pytest.raises(tg.CheckpointError, match="SHA-256"):
        tg.convert(tmp_path / "in.safetensors", tmp_path / "out", file_format="dcp")
    assert inside(tmp_path) == ["in.safetensors"]


def test_the_name_of_the_entry_for_facts_is_refused(tmp_path):
    with pytest.raises(tg.UsageError, match=r"torchgraft\.beside"):
        tg.save(tmp_path / "out", {"torchgraft.beside": torch.ones(2)}, file_format="dcp")
