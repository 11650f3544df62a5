"""Folders of a model in parts, each with weights in a folder of its own, as a file in them says."""

import json

import pytest
import torch
from torch import nn

import torchgraft as tg


def put(folder, model, name="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    tg.save_model(folder / name, model)
    (folder / "config.json").write_text(json.dumps({"kind": folder.name}))


def body():
    return nn.ModuleDict({"embed": nn.Embedding(9, 4), "mix": nn.Linear(4, 4)})


def sentences(tmp_path):
    """Write what sentence-transformers does: the first module in the folder itself, one without weights, a layer."""
    first, last = body(), nn.ModuleDict({"linear": nn.Linear(4, 2)})
    put(tmp_path, first)
    put(tmp_path / "2_Dense", last)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    paths = {"0": "", "1": "1_Pooling", "2": "2_Dense"}
    modules = [{"idx": int(name), "name": name, "path": path} for name, path in paths.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    return first, last


def test_modules_of_one_folder_are_networks_under_their_names(tmp_path):
    first, last = sentences(tmp_path)
    found = tg.inspect(tmp_path)
    assert [(one.path, one.tensors) for one in found.networks] == [("", 5), ("0", 3), ("2", 2)]
    assert found.metadata["config"] == {"kind": tmp_path.name}
    assert found.metadata["2/config"] == {"kind": "2_Dense"}
    assert found.warnings == ()

    alone, dense = body(), nn.ModuleDict({"linear": nn.Linear(4, 2)})
    whole = nn.Sequential(
        nn.ModuleDict({"auto_model": body()}), nn.Identity(), nn.ModuleDict({"linear": nn.Linear(4, 2)})
    )
    for model in (alone, dense, whole):
        assert tg.load(model, tmp_path).plan.coverage.target == 1
    assert torch.equal(alone["mix"].weight, first["mix"].weight)
    assert torch.equal(dense["linear"].weight, last["linear"].weight)
    assert torch.equal(whole[0]["auto_model"]["mix"].weight, first["mix"].weight)
    assert torch.equal(whole[2]["linear"].weight, last["linear"].weight)


def test_a_pipeline_of_models_is_read_where_each_has_a_folder(tmp_path):
    unet, vae = body(), nn.ModuleDict({"encoder": nn.Linear(4, 3)})
    put(tmp_path / "unet", unet, "diffusion_pytorch_model.safetensors")
    put(tmp_path / "vae", vae, "diffusion_pytorch_model.fp16.safetensors")
    (tmp_path / "scheduler").mkdir()
    pipeline = {
        "_class_name": "P",
        "unet": ["d", "U"],
        "vae": ["d", "V"],
        "scheduler": ["d", "S"],
        "checker": [None, None],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(pipeline))
    assert {one.path for one in tg.inspect(tmp_path).networks} == {"", "unet", "vae"}
    model = body()
    report = tg.load(model, tmp_path)
    assert torch.equal(model["mix"].weight, unet["mix"].weight)
    assert "(safetensors in 2 folders, network unet)" in str(report)
    with pytest.raises(tg.UsageError, match="'vae': model, 2 tensors"):
        tg.load(model, tmp_path, prefer="text_encoder")


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "3",
        "[3]",
        '{"unet": 3}',
        '[{"name": 1, "path": []}]',
        '[{"name": "x", "path": []}]',
        '[{"name": "x", "path": ".."}]',
    ],
)
def test_a_list_of_parts_that_says_nothing_is_left_alone(tmp_path, said):
    sentences(tmp_path)
    (tmp_path / "modules.json").write_text(said)
    (note,) = tg.inspect(tmp_path).warnings
    assert note == "checkpoints of their own in this folder are not read: 2_Dense"


def test_parts_lead_to_no_other_folder(tmp_path):
    sentences(tmp_path / "model")
    put(tmp_path / "secret", body())
    (tmp_path / "model" / "link").symlink_to(tmp_path / "secret")
    modules = [
        {"name": "a", "path": "../secret"},
        {"name": "b", "path": "link"},
        {"name": "c", "path": str(tmp_path / "secret")},
    ]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    assert [one.path for one in tg.inspect(tmp_path / "model").networks] == [""]
