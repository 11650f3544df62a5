"""What is computed from 16-bit values is rounded once, to the model's own type."""

import pytest
import torch
from torch import nn

import torchgraft as tg


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ours", [torch.float32, torch.float64])
def test_a_mean_over_channels_keeps_the_bits_that_the_model_has(dtype, ours):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)).to(ours)
    file = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).to(dtype).state_dict()
    report = tg.load(model, file, in_channels={"0.weight": "mean"})
    assert torch.allclose(model[0].weight, file["0.weight"].to(ours).mean(1, keepdim=True), rtol=1e-6, atol=1e-8)
    assert f"cast to {str(ours).removeprefix('torch.')}" in str(
        report.plan.by_name["0.weight"].feeds[0].ops[0].describe()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_weight_norm_is_taken_apart_and_joined_in_the_models_type(dtype):
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(7, 5)).to(dtype)
    file = {k.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"): v
            for k, v in normed.state_dict().items()}  # fmt: skip
    model = nn.Linear(7, 5)
    tg.load(model, file)
    g, v = file["weight_g"].float(), file["weight_v"].float()
    assert torch.allclose(model.weight, g * v / v.norm(dim=1, keepdim=True), rtol=1e-6, atol=1e-8)


def test_a_model_of_the_same_type_gets_no_cast():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)).bfloat16()
    file = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).bfloat16().state_dict()
    step = tg.plan(model, file, in_channels={"0.weight": "mean"}).by_name["0.weight"]
    assert [op.name for op in (*step.feeds[0].ops, *step.ops)] == ["adapt_input_channels"]


def test_a_rearranged_tensor_gets_no_cast():
    file = {"weight": torch.randn(6, 6, 1, 1, dtype=torch.bfloat16), "bias": torch.randn(6, dtype=torch.bfloat16)}
    step = tg.plan(nn.Linear(6, 6), file).by_name["weight"]
    assert [op.name for op in (*step.feeds[0].ops, *step.ops)] == ["reshape"]
