"""Checkpoints of other kinds than expected: what lies beside a whole module's tensors, and what can't be read at all."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Detector(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, len(names), 1)
        self.names, self.anchors, self.stride = dict(enumerate(names)), [8, 16], torch.ones(2)


def test_plain_facts_of_a_whole_module_are_kept(tmp_path):
    torch.save({"epoch": 3, "model": Detector(["car", "bus"])}, tmp_path / "run.pt")
    found = tg.inspect(tmp_path / "run.pt")
    assert found.metadata["model/names"] == {0: "car", 1: "bus"}
    assert found.metadata["model/anchors"] == [8, 16]
    assert not any("training" in key or key.endswith("stride") for key in found.metadata)
    notes = tg.load(Detector(["bus", "car"]), tmp_path / "run.pt").plan.notes
    assert any("the file names 2 rows (model/names: 'car', 'bus', …)" in note for note in notes)


def test_a_lazy_module_is_no_source_yet():
    with pytest.raises(
        tg.CheckpointError, match=r"0.weight has no shape yet, as its module is lazy: run one forward pass"
    ):
        tg.load(nn.Linear(3, 2), nn.Sequential(nn.LazyLinear(2)))


def test_a_model_without_tensors_is_said():
    with pytest.raises(
        tg.PlanRefusedError, match="the model has no parameters and no buffers\n  if its layers are quantised"
    ):
        tg.load(nn.ReLU(), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("name", "said"),
    [("saved_model.pb", "a SavedModel of TensorFlow"), ("_CHECKPOINT_METADATA", "a checkpoint of Orbax")],
)
def test_folders_of_other_libraries_are_called_what_they_are(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"\x08\x01")
    with pytest.raises(tg.CheckpointError, match=f"{said}.*, which is not read: write its weights"):
        tg.inspect(tmp_path)


def test_a_home_folder_is_not_looked_up():
    with pytest.raises(tg.CheckpointError, match="~ is not expanded"):
        tg.inspect("~/no such file.pt")


def test_what_a_trainer_counts_is_no_rival_of_the_weights(tmp_path):
    file = {"state_dict": nn.Linear(3, 2).state_dict(), "callbacks": {"best": {"score": torch.tensor(0.3)}}}
    assert len(tg.inspect(file).networks) > 1
    assert tg.load(nn.Linear(3, 2), file).plan.notes == ()


def test_a_name_whose_parts_lie_beside_it_leads_to_their_index(tmp_path):
    tg.save(tmp_path / "model.safetensors", {"a": torch.ones(40), "b": torch.ones(40)}, shard_size=200)
    with pytest.raises(tg.MissingFileError, match=r"its parts are named by model\.safetensors\.index\.json beside it"):
        tg.inspect(tmp_path / "model.safetensors")
    assert not tg.inspect(tmp_path / "model.safetensors.index.json").warnings


def test_standard_input_is_no_file():
    with pytest.raises(tg.MissingFileError, match="standard input is not read"):
        tg.inspect("-")


def test_models_that_are_numbered_beside_the_one_that_is_read_are_told(tmp_path):
    for name in ("pytorch_model.bin", "pytorch_model_1.bin", "optimizer.bin"):
        torch.save(nn.Linear(3, 2).state_dict(), tmp_path / name)
    assert tg.inspect(tmp_path).warnings == ("pytorch_model.bin is read, and not pytorch_model_1.bin",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet_18.pth", "; did you mean 'resnet18.pth'?"),
        ("ResNet18.PTH", "; did you mean 'resnet18.pth'?"),
        ("resnet34.pth", ""),
        ("vit.pth", ""),
    ],
)
def test_a_misspelt_name_is_told_the_file_that_is_there(tmp_path, name, said):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(tg.MissingFileError) as caught:
        tg.inspect(tmp_path / name)
    assert str(caught.value).endswith(f"{name}: no such file or folder{said}")


@pytest.mark.parametrize(
    ("sign", "said"), [(b"TFL3", "a model of TensorFlow Lite"), (b"ET12", "a program of ExecuTorch")]
)
def test_flatbuffers_of_other_programs_are_named(tmp_path, sign, said):
    (tmp_path / "x.bin").write_bytes(b"\x1c\0\0\0" + sign + bytes(60))
    with pytest.raises(tg.CheckpointError, match=f"not a checkpoint, but {said}"):
        tg.inspect(tmp_path / "x.bin")
