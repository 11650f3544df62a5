"""Kernels of other libraries with more axes than a matrix become matrices of torch: axes for heads, one position."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import TensorSpec
from torchgraft.matching.parts.forms import with_heads_joined

WIDTH, HEADS = 16, 4
SIZE = WIDTH // HEADS


def model(*, fused, bias):
    """Blocks of a transformer, with one matrix for query, key and value or three."""
    rows = {"qkv": 3 * WIDTH} if fused else dict.fromkeys("qkv", WIDTH)
    return nn.ModuleDict(
        {
            "blocks": nn.ModuleList(
                nn.ModuleDict(
                    {
                        "norm": nn.LayerNorm(WIDTH),
                        "attn": nn.ModuleDict(
                            {name: nn.Linear(WIDTH, size, bias=bias) for name, size in (*rows.items(), ("proj", WIDTH))}
                        ),
                        "fc1": nn.Linear(WIDTH, 24),
                        "fc2": nn.Linear(24, WIDTH),
                    }
                )
                for _ in range(2)
            )
        }
    )


def flax(state, *, bias):
    """The values of a model with three matrices as Flax names and keeps them."""
    saved = {}
    for i in range(2):
        ours, theirs = f"blocks.{i}.", f"encoderblock_{i}."
        for short, name in zip("qkv", ("query", "key", "value"), strict=True):
            kernel = state[f"{ours}attn.{short}.weight"].T.reshape(WIDTH, HEADS, SIZE)
            saved[f"{theirs}attention.{name}.kernel"] = kernel
            if bias:
                saved[f"{theirs}attention.{name}.bias"] = state[f"{ours}attn.{short}.bias"].reshape(HEADS, SIZE)
        saved[f"{theirs}attention.out.kernel"] = state[f"{ours}attn.proj.weight"].T.reshape(HEADS, SIZE, WIDTH)
        if bias:
            saved[f"{theirs}attention.out.bias"] = state[f"{ours}attn.proj.bias"]
        saved[f"{theirs}LayerNorm_0.scale"] = state[f"{ours}norm.weight"]
        saved[f"{theirs}LayerNorm_0.bias"] = state[f"{ours}norm.bias"]
        for name, layer in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            saved[f"{theirs}Mlp_0.{layer}.kernel"] = state[f"{ours}{name}.weight"].T
            saved[f"{theirs}Mlp_0.{layer}.bias"] = state[f"{ours}{name}.bias"]
    return {key: value.contiguous() for key, value in saved.items()}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("in_order", [True, False])
def test_heads_are_joined_and_matrices_turned(fused, bias, in_order):
    wanted = filled(model(fused=False, bias=bias)).state_dict()
    saved = flax(wanted, bias=bias)
    target = model(fused=fused, bias=bias)
    tg.load(target, saved if in_order else dict(sorted(saved.items())))
    for i in range(2):
        attn = target["blocks"][i]["attn"]
        for role in ("weight", "bias") if bias else ("weight",):
            parts = [wanted[f"blocks.{i}.attn.{short}.{role}"] for short in "qkv"]
            found = getattr(attn["qkv"], role).chunk(3) if fused else [getattr(attn[short], role) for short in "qkv"]
            assert all(torch.equal(a, b) for a, b in zip(found, parts, strict=True))
            assert torch.equal(getattr(attn["proj"], role), wanted[f"blocks.{i}.attn.proj.{role}"])


def shapes(**given):
    return with_heads_joined(
        {
            key: TensorSpec(name=key, shape=shape, dtype=DType.F32)
            for key, shape in ((name.replace("_", "."), shape) for name, shape in given.items())
        }
    )


def test_convolutions_are_left_as_they_are():
    assert shapes(a_conv_kernel=(3, 8, 16), a_conv_bias=(16,), a_wide_kernel=(3, 3, 8, 16)) == {}
    assert shapes(a_query_kernel=(3, 8, 16), a_key_kernel=(3, 8, 16), a_value_kernel=(3, 8, 16)) == {}


def test_fused_projections_with_an_axis_for_their_parts_become_one_matrix():
    found = shapes(a_qkv_kernel=(8, 3, 2, 4), a_qkv_bias=(3, 2, 4))
    assert found == {"a.qkv.kernel": (8, 24), "a.qkv.bias": (24,)}


def test_kernels_that_nothing_explains_are_in_doubt():
    """As many numbers would fit as they are, and mean something else."""
    target = nn.ModuleDict({"mix": nn.Linear(16, 16, bias=False), "head": nn.Linear(16, 5)})
    saved = {"mix.kernel": torch.randn(16, 4, 4), "head.kernel": torch.randn(16, 5), "head.bias": torch.randn(5)}
    steps = {step.slot.name: step for step in tg.plan(target, saved, on_doubt="take").steps}
    assert steps["mix.weight"].certainty is Certainty.DOUBT


def gpt2(state):
    """The values of blocks with one matrix for query, key and value as GPT-2's own code keeps them: [1, in, out]."""
    saved = {}
    layers = {"attn.qkv": "attn.c_attn", "attn.proj": "attn.c_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
    for i in range(2):
        for ours, theirs in layers.items():
            saved[f"model.h{i}.{theirs}.w"] = state[f"blocks.{i}.{ours}.weight"].T[None].contiguous()
            saved[f"model.h{i}.{theirs}.b"] = state[f"blocks.{i}.{ours}.bias"]
        saved[f"model.h{i}.ln_1.g"] = state[f"blocks.{i}.norm.weight"]
        saved[f"model.h{i}.ln_1.b"] = state[f"blocks.{i}.norm.bias"]
    return saved


def test_kernels_of_one_position_are_turned_and_cut_like_matrices():
    wanted, target = filled(model(fused=True, bias=True)).state_dict(), model(fused=True, bias=True)
    tg.load(target, gpt2(wanted))
    assert all(torch.equal(value, wanted[key]) for key, value in target.state_dict().items())
    apart = model(fused=False, bias=True)
    tg.load(apart, gpt2(wanted))
    for i in range(2):
        for short, part in zip("qkv", wanted[f"blocks.{i}.attn.qkv.weight"].chunk(3), strict=True):
            assert torch.equal(apart["blocks"][i]["attn"][short].weight, part)
        assert torch.equal(apart["blocks"][i]["attn"]["proj"].weight, wanted[f"blocks.{i}.attn.proj.weight"])


@pytest.mark.parametrize("kernel", [(8, 8), (1, 8, 8), (1, 1, 8, 8)])
def test_square_kernels_that_become_others_of_one_position_are_turned(kernel):
    saved = {"mix.kernel": torch.randn(kernel), "out.kernel": torch.randn(8, 5), "out.bias": torch.randn(5)}
    for layer in (nn.Conv2d(8, 8, 1, bias=False), nn.Conv1d(8, 8, 1, bias=False), nn.Linear(8, 8, bias=False)):
        target = nn.ModuleDict({"mix": layer, "out": nn.Linear(8, 5)})
        tg.load(target, saved)
        assert torch.equal(target["mix"].weight.reshape(8, 8), saved["mix.kernel"].reshape(8, 8).T)


def test_a_table_of_positions_is_not_turned():
    saved = {"pos.weight": torch.randn(1, 8, 8), "out.kernel": torch.randn(8, 5), "out.bias": torch.randn(5)}
    target = nn.ModuleDict({"pos": nn.Embedding(8, 8), "out": nn.Linear(8, 5)})
    tg.load(target, saved, on_doubt="take")
    assert torch.equal(target["pos"].weight, saved["pos.weight"][0])


def test_a_square_w_whose_layout_nothing_shows_is_in_doubt():
    target = nn.ModuleDict({"first": nn.Linear(8, 8), "second": nn.Linear(8, 8)})
    saved = {f"{name}.{role}": torch.randn(shape) for name in target for role, shape in (("w", (8, 8)), ("b", (8,)))}
    certainty = {step.slot.name: step.certainty for step in tg.plan(target, saved, on_doubt="take").steps}
    assert certainty["first.weight"] is certainty["second.weight"] is Certainty.DOUBT
    saved["third.w"], saved["third.b"], target["third"] = torch.randn(8, 3), torch.randn(3), nn.Linear(8, 3)
    tg.load(target, saved)
    assert torch.equal(target["first"].weight, saved["first.w"].T)
