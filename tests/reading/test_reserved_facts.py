"""Facts of a file that are called like those of our own, and are something else: nobody stumbles over them."""

import json
import struct

import pytest
import torch
from torch import nn

import torchgraft as tg

NAMES = ("versions", "optimizers", "left_out", "shards", "foreign_classes", "config", "lora", "torchgraft.sha256",
         "torchgraft.facts", "torchgraft.part", "torchgraft.ties", "torchgraft.beside")  # fmt: skip
VALUES = ("1.2", 5, {"": [1]})


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def as_torch(folder, name, value):
    made = model()
    optimizer = torch.optim.Adam(made.parameters())
    made(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    held = {name: value, "long": "x" * 10_000, "state_dict": made.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(held, folder / "a.pt")
    return folder / "a.pt", made.state_dict()


def as_safetensors(folder, name, value, *, nested=True):
    state = model().state_dict()
    tg.save(folder / "a.safetensors", state)
    raw = (folder / "a.safetensors").read_bytes()
    count = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + count])
    header["__metadata__"] = {"torchgraft.facts": json.dumps({name: value})} if nested else {name: json.dumps(value)}
    text = json.dumps(header).encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + count :])
    return folder / "a.safetensors", state


def as_text(folder, name, value):
    return as_safetensors(folder, name, value, nested=False)


def as_index(folder, name, value):
    state = model().state_dict()
    tg.save(folder / "a-00001.safetensors", state)
    index = {"metadata": {name: value}, "weight_map": dict.fromkeys(state, "a-00001.safetensors")}
    (folder / "a.safetensors.index.json").write_text(json.dumps(index))
    return folder / "a.safetensors.index.json", state


@pytest.mark.parametrize("make", [as_torch, as_safetensors, as_text, as_index])
@pytest.mark.parametrize("name", NAMES)
def test_facts_that_mislead_change_nothing(tmp_path, name, make):
    for number, value in enumerate(VALUES):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, state = make(folder, name, value)
        assert str(tg.inspect(path))
        assert json.dumps(tg.inspect(path, verify=True).to_dict())
        filled = model()
        report = tg.load(filled, path)
        assert same(filled.state_dict(), state)
        if make is as_torch:
            assert tg.optimizer_state(filled, torch.optim.Adam(filled.parameters()), report, path).carried
        prefer = "state_dict" if make is as_torch else None
        for kind in ("safetensors", "torch zip", "dcp")[: 1 if number else 3]:
            tg.convert(path, folder / kind, prefer=prefer, file_format=kind)
            with tg.open_checkpoint(folder / kind) as source:
                assert same({key: source.read("", key) for key in source.networks[0].specs}, state)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_fact_that_is_the_name_of_a_tensor_is_no_tie(tmp_path):
    held = {"state_dict": {"fc.weight": torch.ones(2), "fc.bias": torch.zeros(2)}, "monitor": "fc.weight"}
    torch.save(held, tmp_path / "a.pt")
    for first, second in [("b.safetensors", "c.pt"), ("b.pt", "c.safetensors")]:
        tg.convert(tmp_path / "a.pt", tmp_path / first, prefer="state_dict")
        tg.convert(tmp_path / first, tmp_path / second)
        with tg.open_checkpoint(tmp_path / second) as source:
            assert list(source.networks[0].specs) == ["fc.weight", "fc.bias"]
            assert source.metadata["monitor"] == "fc.weight"


def test_ties_that_safetensors_metadata_states_stay_ties(tmp_path):
    weight = torch.randn(3, 2)
    tg.save(tmp_path / "a.safetensors", {"a": weight, "b": weight, "c": torch.ones(1)})
    tg.convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert set(torch.load(tmp_path / "b.pt", weights_only=True)) == {"a", "b", "c"}
    tg.convert(tmp_path / "b.pt", tmp_path / "c.safetensors")
    tg.convert(tmp_path / "c.safetensors", tmp_path / "d.pt")
    again = torch.load(tmp_path / "d.pt", weights_only=True)
    assert again["a"].data_ptr() == again["b"].data_ptr()


def test_shards_state_their_ties_together(tmp_path):
    first, second = torch.randn(3, 2), torch.randn(4)
    tied = {"a": first, "b": first, "x": second, "y": second}
    made = tg.save(tmp_path / "m.safetensors", tied, shard_size=24)
    assert len(made.files) == 2
    tg.convert(made.path, tmp_path / "b.pt")
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert {k: v.tolist() for k, v in again.items()} == {k: v.tolist() for k, v in tied.items()}
