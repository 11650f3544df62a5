"""A list that holds an embedding before the blocks and a head behind them, against a list of blocks alone."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg

WIDTH, DEPTH = 8, 3


def whole(blocks=DEPTH):
    """All in one list, as the first Phi of Microsoft has it."""
    members = [nn.ModuleDict({"wte": nn.Embedding(20, WIDTH)})]
    members += [
        nn.ModuleDict({
            "ln": nn.LayerNorm(WIDTH), "mixer": nn.Linear(WIDTH, WIDTH),
            "mlp": nn.ModuleDict({"fc1": nn.Linear(WIDTH, 2 * WIDTH), "fc2": nn.Linear(2 * WIDTH, WIDTH)}),
        })
        for _ in range(blocks)
    ]  # fmt: skip
    members += [nn.ModuleDict({"ln": nn.LayerNorm(WIDTH), "linear": nn.Linear(WIDTH, 20)})]
    return filled(nn.ModuleDict({"layers": nn.ModuleList(members)}))


def apart():
    block = {"input_layernorm": nn.LayerNorm, "dense": nn.Linear}
    layers = [
        nn.ModuleDict({
            "input_layernorm": block["input_layernorm"](WIDTH), "dense": block["dense"](WIDTH, WIDTH),
            "mlp": nn.ModuleDict({"fc1": nn.Linear(WIDTH, 2 * WIDTH), "fc2": nn.Linear(2 * WIDTH, WIDTH)}),
        })
        for _ in range(DEPTH)
    ]  # fmt: skip
    parts = {"embed_tokens": nn.Embedding(20, WIDTH), "layers": nn.ModuleList(layers), "norm": nn.LayerNorm(WIDTH)}
    return filled(nn.ModuleDict({"model": nn.ModuleDict(parts), "lm_head": nn.Linear(WIDTH, 20)}))


def blocks_of(model):
    return model["layers"][1:-1] if "layers" in model else model["model"]["layers"]


@pytest.mark.parametrize(("source", "target"), [(whole(), apart()), (apart(), whole())])
def test_equal_numbers_mislead_where_a_list_holds_more_than_blocks(source, target):
    tg.load(target, source.state_dict())
    for ours, theirs in zip(blocks_of(source), blocks_of(target), strict=True):
        for part in ("fc1", "fc2"):
            assert torch.equal(theirs["mlp"][part].weight, ours["mlp"][part].weight)


def test_with_a_block_more_nothing_says_which_are_meant():
    with pytest.raises(tg.PlanRefusedError, match="in doubt"):
        tg.load(apart(), whole(DEPTH + 1).state_dict())
