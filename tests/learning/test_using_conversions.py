"""A learned conversion at work: checkpoints seen through it, and the file it is kept in."""

import json

import pytest
import torch
from torch import nn

import torchgraft as tg


def convert(state):
    q, k, v = state.pop("in_proj_weight").chunk(3)
    out = {"attn.q.weight": q, "attn.k.weight": k, "attn.v.weight": v, "mlp.weight": state["fc"].t()}
    return {**out, "norm.weight": state["ln_g"], "norm.bias": torch.zeros(4), "scaled": state["ln_g"] * 2}


def old_state():
    g = torch.Generator().manual_seed(1)
    return {n: torch.randn(s, generator=g) for n, s in (("in_proj_weight", (12, 4)), ("fc", (4, 8)), ("ln_g", (4,)), ("x", (3,)))}  # fmt: skip


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.ModuleDict({n: nn.Linear(4, 4, bias=False) for n in "qkv"})
        self.mlp = nn.Linear(4, 8, bias=False)
        self.norm = nn.LayerNorm(4)


@pytest.fixture
def learned():
    return tg.learn(convert, old_state())


def test_a_model_is_loaded_through_it(learned, tmp_path):
    state, wanted = old_state(), convert(old_state())
    tg.save(tmp_path / "old.safetensors", state)
    learned.save(tmp_path / "learned.json")
    for checkpoint in (state, {"model": state, "epoch": 3}, tmp_path / "old.safetensors"):
        for how in (learned, tmp_path / "learned.json", str(tmp_path / "learned.json")):
            model = Block()
            report = tg.load(model, checkpoint, learned=how)
            assert report.checks[0].passed
            assert all(torch.equal(v, wanted[n]) for n, v in model.state_dict().items())
            assert "scaled" in str(report)
            assert tg.plan(Block(), checkpoint, learned=how).coverage.target == 1.0


def test_values_are_read_in_pieces_from_a_converted_checkpoint(learned, tmp_path):
    tg.save(tmp_path / "old.safetensors", old_state())
    with tg.open_checkpoint(tmp_path / "old.safetensors") as source:
        seen = learned.opened(source)
        for name, value in learned.convert(old_state()).items():
            whole = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            for start in (0, 4, len(whole) - 4):
                piece = bytearray(4)
                seen.read_into("", name, memoryview(piece), start)
                assert bytes(piece) == whole[start : start + 4]
            assert torch.equal(seen.read("", name), value)
        with pytest.raises(tg.UsageError, match="no tensor 'fc'"):
            seen.read("", "fc")


def test_other_element_types_go_through(learned):
    model = Block().bfloat16()
    tg.load(model, {n: v.bfloat16() for n, v in old_state().items()}, learned=learned)
    assert torch.equal(model.mlp.weight, old_state()["fc"].bfloat16().t())


def test_tied_tensors_stay_tied():
    found = tg.learn(lambda s: {"a": s["w"], "b": s["w"]}, {"w": torch.zeros(3)})
    with tg.open_checkpoint({"w": torch.ones(3)}) as source:
        assert found.opened(source).networks[0].shared == {"b": "a"}


def test_another_checkpoint_is_refused_with_both_shapes(learned):
    wrong = {**old_state(), "fc": torch.zeros(4, 9)}
    del wrong["ln_g"]
    model = Block()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(tg.UsageError, match=r"fc is \[4, 9\], was \[4, 8\].*ln_g \[4\] is missing"):
        tg.load(model, wrong, learned=learned)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_of_several_networks_the_one_that_fits_is_converted(learned):
    other = {"fc": torch.zeros(2, 2)}
    ema = {n: v + 1 for n, v in old_state().items()}
    model = Block()
    tg.load(model, {"other": other, "model": old_state(), "ema": ema}, learned=learned)
    assert torch.equal(model.norm.weight, old_state()["ln_g"])
    tg.load(model, {"other": other, "model": old_state(), "ema": ema}, learned=learned, prefer="ema")
    assert torch.equal(model.norm.weight, ema["ln_g"])
    with pytest.raises(tg.UsageError, match="no such network"):
        tg.load(model, old_state(), learned=learned, prefer="teacher")


def test_specs_alone_are_enough(learned):
    with tg.open_checkpoint(old_state()) as source:
        again = tg.learn(convert, dict(source.networks[0].specs))
    assert again.outputs == learned.outputs


def test_learned_takes_nothing_else():
    with pytest.raises(tg.UsageError, match="learned is a dict"):
        tg.load(Block(), old_state(), learned={})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(schema="x"), "schema should be"),
        (lambda d: d.update(outputs=3), "'outputs' should be a list"),
        (lambda d: d["sources"][0].update(shape=[-1]), "expected whole numbers from 0 on"),
        (lambda d: d["sources"][0].update(dtype="float3"), "float3"),
        (lambda d: d["outputs"][0]["feeds"][0].update(key="nobody"), "'nobody', which is no source tensor"),
        (lambda d: d["outputs"][0]["feeds"][0].update(ops=[{"op": "run"}]), "no op"),
        (lambda d: d["outputs"][0]["feeds"][0].update(ops=[]), r"should be \[4, 4\] float32 and comes out \[12, 4\]"),
        (lambda d: d["outputs"][0].update(feeds=[]), "joins 0 tensors"),
        (lambda d: d["outputs"][3]["feeds"][0]["ops"].append({"op": "slice", "dim": 7, "start": 0, "stop": 1}), "no dimension 7"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_the_reason(learned, tmp_path, change, text):
    path = tmp_path / "learned.json"
    learned.save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(tg.UsageError, match=text):
        tg.Learned.read(path)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(tg.MissingFileError, match="no such file"):
        tg.Learned.read(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(tg.UsageError, match="no JSON"):
        tg.Learned.read(tmp_path / "text.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(tg.UsageError, match="no JSON"):
        tg.Learned.read(tmp_path / "deep.json")


def test_a_file_that_can_not_be_written_leaves_what_stood_there(learned, tmp_path):
    path = tmp_path / "learned.json"
    path.mkdir()
    with pytest.raises(tg.WriteError, match=r"learned\.json can't be written: it is a folder"):
        learned.save(path)
    assert list(tmp_path.iterdir()) == [path]
