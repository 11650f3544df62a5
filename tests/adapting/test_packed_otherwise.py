"""Whole numbers that can't be the weight of a layer are packed ones, whatever lies beside them: no mere other shape."""

import pytest
import torch
from torch import nn

import torchgraft as tg


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
@pytest.mark.parametrize("beside", [{}, {"proj.weight.absmax": torch.ones(2)}])
def test_packed_numbers_of_another_shape_are_refused_as_such(dtype, beside):
    model = nn.ModuleDict({"proj": nn.Linear(16, 8, bias=False), "norm": nn.LayerNorm(16)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    file = {"norm.weight": torch.randn(16), "norm.bias": torch.randn(16), **beside}
    file["proj.weight"] = torch.randint(0, 99, (64, 1)).to(dtype)
    with pytest.raises(tg.PlanRefusedError, match="dequantise the file") as caught:
        tg.load(model, file)
    assert [one.kind for one in caught.value.objections] == ["quantised"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_float_weight_of_another_shape_stays_a_matter_of_shapes():
    model = nn.ModuleDict({"proj": nn.Linear(16, 8, bias=False), "norm": nn.LayerNorm(16)})
    file = {"norm.weight": torch.randn(16), "norm.bias": torch.randn(16), "proj.weight": torch.randn(9, 16)}
    assert "quantised" not in [one.kind for one in tg.load(model, file).plan.objections]


@pytest.mark.parametrize("kind", ["", "trained"])
def test_a_weight_that_is_trained_beside_what_quantisation_makes_of_it_is_the_weight(kind):
    """Distiller keeps `float_weight`, and puts into `weight`, on each pass, what is left of it in few bits."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    whole = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    file = dict(whole)
    for name in ("0.weight", "2.weight"):
        file[name] = whole[name].round()
        file[name.replace("weight", "float_weight")] = whole[name]
    if kind:
        file = {f"module.{name}": value for name, value in file.items()}
    report = tg.load(model, file)
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    assert all(unused.quiet for unused in report.plan.unused)


def test_a_scale_that_is_named_before_its_weight_is_used():
    """ComfyUI's files say `proj.scale_weight`, others `proj.weight_scale`."""
    model = nn.ModuleDict({"proj": nn.Linear(16, 8, bias=False)})
    packed, scale = torch.randn(8, 16).to(torch.float8_e4m3fn), torch.tensor(0.3)
    tg.load(model, {"proj.weight": packed, "proj.scale_weight": scale})
    assert torch.allclose(model["proj"].weight, packed.float() * scale)
