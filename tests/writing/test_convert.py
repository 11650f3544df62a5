"""A conversion loses nothing unsaid: values, types, ties, facts and versions arrive, and what can't is refused by name."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

import torchgraft as tg
from torchgraft.cli import cli

ENDINGS = (".safetensors", ".pt")


def tensors():
    shared = torch.randn(6, 5)
    return {
        "z.weight": torch.randn(30, 4),
        "a.bias": torch.randn(4).bfloat16(),
        "one": shared,
        "two": shared,
        "turned": torch.randn(4, 3).t(),
        "flags": torch.tensor([True, False]),
        "counter": torch.tensor(3),
        "none": torch.empty(0, 2),
        "eight": torch.randn(5).to(torch.float8_e4m3fn),
    }


def read(path):
    with tg.open_checkpoint(path) as source:
        network = source.networks[0]
        return {name: source.read(network.path, name) for name in network.specs}, source.metadata


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(one, two):
    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype and one[k].shape == two[k].shape and torch.equal(bits(one[k]), bits(two[k]))
        for k in one
    )


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "original.pt"
    torch.save({"model": tensors(), "epoch": 3, "args": {"lr": 0.5, "names": ["a", "b"]}, "note": "text"}, path)
    return path


@pytest.mark.parametrize("first", ENDINGS)
@pytest.mark.parametrize("second", ENDINGS)
@pytest.mark.parametrize("shard_size", [None, 200])
def test_there_and_back_everything_is_as_it_was(tmp_path, original, first, second, shard_size):
    one = tg.convert(original, tmp_path / f"one{first}", shard_size=shard_size)
    two = tg.convert(one.path, tmp_path / f"two{second}", shard_size=shard_size)
    back = tg.convert(two.path, tmp_path / "back.pt")
    state = torch.load(back.path, weights_only=True)
    expected = torch.load(original, weights_only=True)["model"]
    assert same(state, expected)
    assert state["one"].data_ptr() == state["two"].data_ptr()
    assert one.shared == two.shared == back.shared == {"two": "one"}
    _, facts = read(back.path)
    assert (facts["epoch"], facts["args"], facts["note"]) == (3, {"lr": 0.5, "names": ["a", "b"]}, "text")
    assert tg.inspect(two.path, verify=True).verification.passed


def test_versions_and_extra_state_stay_in_torch_files_and_are_refused_by_others(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"step": 3}

        def set_extra_state(self, state):
            self.step = state["step"]

    model = nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(3), extra=Extra(2, 2)))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    tg.convert(tmp_path / "m.pt", tmp_path / "again.pt")
    state = torch.load(tmp_path / "again.pt", weights_only=True)
    assert state._metadata["norm"]["version"] == 2
    model.load_state_dict(state)
    assert model.extra.step == 3
    with pytest.raises(tg.UsageError, match=r"extra\._extra_state: extra state .* convert to \.pt"):
        tg.convert(tmp_path / "m.pt", tmp_path / "m.safetensors")
    torch.save(nn.BatchNorm1d(3).state_dict(), tmp_path / "n.pt")
    for ending in (".safetensors", ".bin"):
        saved = tg.convert(tmp_path / "n.pt", tmp_path / f"n{ending}", shard_size=8)
        tg.convert(saved.path, tmp_path / "n2.pt")
        assert torch.load(tmp_path / "n2.pt", weights_only=True)._metadata[""]["version"] == 2


def trained(model):
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def test_several_networks_need_a_word_and_those_left_out_are_named(tmp_path):
    path = tmp_path / "training.pt"
    model = nn.Linear(3, 2)
    torch.save({"model": model.state_dict(), "ema": nn.Linear(3, 2).state_dict(), "optimizer": trained(model)}, path)
    held = r"the top level .*; 'model': model, 2 tensors; 'ema': ema, 2 tensors; 'optimizer': optimizer, 6 tensors"
    with pytest.raises(
        tg.UsageError, match=rf"several networks.* \({held}\): choose it with prefer=, e.g. prefer='model'"
    ):
        tg.convert(path, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
    saved = tg.convert(path, tmp_path / "m.safetensors", prefer="ema")
    assert (saved.network, saved.left_out) == ("ema", ("", "model", "optimizer"))


def test_the_state_of_an_optimizer_is_no_second_network(tmp_path):
    model = nn.Linear(3, 2)
    beside = {"optimizer": trained(model), "scaler": {"scale": np.ones(3)}, "callbacks": {"best": torch.ones(2)}}
    torch.save({**beside, "model": model.state_dict()}, tmp_path / "training.pt")
    saved = tg.convert(tmp_path / "training.pt", tmp_path / "m.safetensors")
    assert (saved.network, saved.left_out) == ("model", ("optimizer", "scaler", "callbacks"))
    assert "left out:\n  network optimizer\n  network scaler" in str(saved)
    assert same(load_file(saved.path), model.state_dict())


def test_parts_of_one_network_are_no_several_networks(tmp_path):
    path = tmp_path / "parts.pt"
    torch.save({"encoder": {"w": torch.ones(2)}, "decoder": {"w": torch.zeros(3)}}, path)
    tg.convert(path, tmp_path / "m.safetensors")
    assert load_file(tmp_path / "m.safetensors").keys() == {"encoder.w", "decoder.w"}


@pytest.mark.parametrize("dtype", ["bf16", "float16", torch.float64])
def test_only_real_floating_point_tensors_of_more_than_a_byte_are_cast(tmp_path, original, dtype):
    saved = tg.convert(original, tmp_path / "cast.safetensors", dtype=dtype)
    kind = {"bf16": torch.bfloat16, "float16": torch.float16}.get(dtype, dtype)
    found, _ = read(saved.path)
    given = tensors()
    torch.manual_seed(0)
    expected = torch.load(original, weights_only=True)["model"]
    for name, value in expected.items():
        cast = value.is_floating_point() and value.element_size() > 1
        assert found.get(name, found["one"]).dtype == (kind if cast else given[name].dtype)
        assert torch.equal(bits(found.get(name, found["one"])), bits(value.to(kind) if cast else value))
    assert saved.cast == 5 - (kind is torch.bfloat16)
    assert "float8 tensors keep their type: eight" in str(saved)


def test_values_that_a_type_can_not_hold_are_refused_and_infinities_pass(tmp_path):
    save_file({"w": torch.tensor([1.0, 1e6])}, tmp_path / "large.safetensors")
    save_file({"w": torch.tensor([1.0, float("inf"), float("nan")])}, tmp_path / "inf.safetensors")
    with pytest.raises(tg.UsageError, match=r"w holds 1e\+06, which float16 can't; choose a type with more range"):
        tg.convert(tmp_path / "large.safetensors", tmp_path / "m.safetensors", dtype="float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inf.safetensors", "large.safetensors"]
    tg.convert(tmp_path / "inf.safetensors", tmp_path / "m.safetensors", dtype="float16")
    assert load_file(tmp_path / "m.safetensors")["w"].isinf().tolist() == [False, True, False]


def test_the_smallest_number_of_a_mask_is_refused_where_it_would_become_infinite(tmp_path):
    """bfloat16 has the exponents of float32, and still ends a little sooner."""
    for name, greatest in (("mask", torch.finfo(torch.float32).min), ("fits", torch.finfo(torch.bfloat16).min)):
        save_file({"w": torch.full((3,), greatest)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(tg.UsageError, match=r"w holds 3.403e\+38, which bfloat16 can't; choose a type with more range"):
        tg.convert(tmp_path / "mask.safetensors", tmp_path / "m.safetensors", dtype="bfloat16")
    tg.convert(tmp_path / "fits.safetensors", tmp_path / "m.safetensors", dtype="bfloat16")
    assert load_file(tmp_path / "m.safetensors")["w"].isfinite().all()


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_a_source_that_lost_its_values_is_refused(tmp_path, dtype):
    tg.save(tmp_path / "m.safetensors", {"a": torch.randn(9), "w": torch.randn(1000)})
    raw = bytearray((tmp_path / "m.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(raw)
    with pytest.raises(tg.CorruptCheckpointError, match="w holds other values than the SHA-256 beside it states"):
        tg.convert(tmp_path / "m.safetensors", tmp_path / "n.pt", dtype=dtype)
    assert not (tmp_path / "n.pt").exists()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"dtype": "int8"}, "dtype 'int8': use one of float16"),
        ({"shard_size": "5 apples"}, "shard size '5 apples': give bytes"),
        ({"shard_size": 0}, "shard size '0'"),
        ({"file_format": "gguf"}, "file_format='gguf'"),
        ({"prefer": "ema"}, "holds no such network"),
        ({"path": "out.onnx"}, "use one of the endings"),
        ({"path": "original.pt"}, r"is the checkpoint that is read: choose another path"),
    ],
)
def test_what_makes_no_sense_is_said_and_nothing_is_written(tmp_path, original, given, text):
    name = given.pop("path", "out.safetensors")
    with pytest.raises(tg.UsageError, match=text):
        tg.convert(original, tmp_path / name, **given)
    assert [p.name for p in tmp_path.iterdir()] == ["original.pt"]


def test_own_shards_are_not_read_and_written_at_once(tmp_path, original):
    tg.convert(original, tmp_path / "m.safetensors", shard_size=200)
    for source in (tmp_path / "m.safetensors.index.json", tmp_path):
        with pytest.raises(tg.UsageError, match="is the checkpoint that is read"):
            tg.convert(source, tmp_path / "m.safetensors", shard_size=500)


def test_dicts_and_modules_can_be_converted(tmp_path):
    tg.convert(tensors(), tmp_path / "d.safetensors")
    tg.convert(nn.Linear(3, 2), tmp_path / "m.pt")
    assert torch.load(tmp_path / "m.pt", weights_only=True).keys() == {"weight", "bias"}


def test_progress_tells_all_bytes(tmp_path, original):
    told = []
    tg.convert(original, tmp_path / "m.safetensors", shard_size=300, progress=lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == sum(t.nbytes for n, t in tensors().items() if n != "two")


def test_command(tmp_path, original):
    out = tmp_path / "m.safetensors"
    done = CliRunner().invoke(cli, ["convert", str(original), str(out), "--shard-size", "300B", "--dtype", "bf16"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"wrote {out}.index.json and 2 shards: safetensors shards, 8 tensors, 4 of them cast")
    done = CliRunner().invoke(cli, ["convert", str(original), str(out), "--json"])
    data = json.loads(done.stdout)
    assert (data["schema"], data["tensors"], data["files"]) == ("torchgraft.saved/1", 8, [str(out)])


def test_tensors_of_which_a_cast_leaves_nothing_are_named(tmp_path):
    state = {
        "tiny": torch.full((5,), 1e-9),
        "some": torch.tensor([1e-9, 1.0]),
        "none": torch.zeros(3),
        "one": torch.ones(2),
    }
    saved = tg.convert(state, tmp_path / "a.safetensors", dtype="float16")
    assert saved.notes == ("all values of tiny are too small for the new type, and became 0",)
    assert tg.convert(state, tmp_path / "b.safetensors", dtype="bfloat16").notes == ()
