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


class Scale(nn.Module):
    """An activation with one tensor of its own."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, WIDTH, 1))


def codec(*, in_one_row):
    """Blocks between a first convolution, an activation and a last convolution, as in the Descript Audio Codec."""
    blocks = [
        nn.ModuleDict({
            "block": nn.Sequential(Scale(), nn.Conv1d(WIDTH, WIDTH, 7), Scale(), nn.Conv1d(WIDTH, 2 * WIDTH, 1))
            if in_one_row else nn.ModuleDict({
                "snake1": Scale(), "conv1": nn.Conv1d(WIDTH, WIDTH, 7),
                "snake2": Scale(), "conv2": nn.Conv1d(WIDTH, 2 * WIDTH, 1),
            })
        })
        for _ in range(DEPTH)
    ]  # fmt: skip
    ends = [nn.Conv1d(1, WIDTH, 7), Scale(), nn.Conv1d(WIDTH, 5, 3)]
    if in_one_row:
        return filled(nn.ModuleDict({"encoder": nn.ModuleDict({"block": nn.Sequential(ends[0], *blocks, *ends[1:])})}))
    parts = {"conv1": ends[0], "block": nn.ModuleList(blocks), "snake1": ends[1], "conv2": ends[2]}
    return filled(nn.ModuleDict({"encoder": nn.ModuleDict(parts)}))


@pytest.mark.parametrize("in_one_row", [True, False])
def test_layers_around_blocks_in_one_row_with_them_are_no_blocks_more(in_one_row):
    source, target = codec(in_one_row=in_one_row), codec(in_one_row=not in_one_row)
    plan = tg.plan(target, source.state_dict())
    shift = -1 if in_one_row else 1
    for step in plan.steps:
        *_, theirs = step.slot.name.split("encoder.block.")
        if theirs.count(".") > 2 and step.feeds:
            *_, ours = step.feeds[0].key.split("encoder.block.")
            assert step.certainty is not tg.Certainty.DOUBT
            assert int(theirs.split(".")[0]) == int(ours.split(".")[0]) + shift
