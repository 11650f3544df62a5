"""Weights that the file stores [in, out]: what shows it, and that the values arrive the right way round."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import torchgraft as tg
from torchgraft.core.plan import Certainty


def loaded(model, file):
    """Load what is sure, and return the model's state dict."""
    tg.load(model, file)
    return model.state_dict()


def test_a_matrix_becomes_a_kernel_of_one_position():
    first, second = torch.randn(8, 24), torch.randn(24, 8)
    file = {"up.weight": first, "up.bias": torch.randn(24), "down.weight": second, "down.bias": torch.randn(8)}
    state = loaded(nn.ModuleDict({"up": nn.Conv1d(8, 24, 1), "down": nn.Conv1d(24, 8, 1)}), file)
    assert torch.equal(state["up.weight"], first.T[:, :, None])
    assert torch.equal(state["down.weight"], second.T[:, :, None])


def test_a_kernel_of_one_position_becomes_a_matrix():
    first, second = torch.randn(1, 8, 24), torch.randn(1, 24, 8)
    file = {"up.weight": first, "up.bias": torch.randn(24), "down.weight": second, "down.bias": torch.randn(8)}
    state = loaded(nn.ModuleDict({"up": nn.Linear(8, 24), "down": nn.Linear(24, 8)}), file)
    assert torch.equal(state["up.weight"], first[0].T)
    assert torch.equal(state["down.weight"], second[0].T)


def test_a_table_of_biases_stored_with_its_heads_first_is_turned():
    table = torch.randn(9, 2)
    file = {"attn.q.weight": torch.randn(6, 6), "attn.relative_attention_bias": table}
    model = nn.ModuleDict({"attn": nn.ModuleDict({"q": nn.Linear(6, 6, bias=False)})})
    model["attn"].relative_attention_bias = nn.Parameter(torch.zeros(2, 9))
    assert torch.equal(loaded(model, file)["attn.relative_attention_bias"], table.T)


def test_a_square_matrix_is_stored_as_the_same_layer_of_other_blocks():
    sizes = {"0": 12, "1": 8}
    blocks = {n: nn.ModuleDict({"attn": nn.ModuleDict({"out": nn.Linear(8, size)})}) for n, size in sizes.items()}
    model = nn.ModuleDict({"blocks": nn.ModuleDict(blocks), "head": nn.Linear(8, 5)})
    values = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    file = {name: value.T.clone() if name.endswith("out.weight") else value for name, value in values.items()}
    plan = tg.plan(model, file)
    assert plan.by_slot["blocks.1.attn.out.weight"].why.text.endswith("transposed like the other attn.out.weight")
    assert all(torch.equal(value, values[name]) for name, value in loaded(model, file).items())


def test_a_square_kernel_is_stored_as_in_tensorflow():
    file = {"fc.kernel": torch.randn(8, 8), "fc.bias": torch.randn(8)}
    model = nn.ModuleDict({"fc": nn.Linear(8, 8)})
    assert tg.plan(model, file).by_slot["fc.weight"].certainty is Certainty.LIKELY
    assert torch.equal(loaded(model, file)["fc.weight"], file["fc.kernel"].T)


def test_a_kernel_of_each_channel_is_none_that_reads_all_channels():
    file = {"conv.weight": torch.randn(8, 3, 1, 1), "conv.bias": torch.randn(8)}
    model = nn.ModuleDict({"conv": nn.Conv2d(8, 8, (1, 3), groups=8)})
    assert tg.plan(model, file).by_slot["conv.weight"].certainty is Certainty.DOUBT
    with pytest.raises(tg.TorchgraftError):
        tg.load(model, file)


def test_a_layer_that_is_left_over_says_nothing_that_the_others_of_its_list_do_not():
    def block():
        return nn.ModuleDict({"attn": nn.Linear(6, 6), "up": Conv1D(12, 6), "down": nn.Linear(12, 6)})

    def build(count):
        return nn.ModuleDict({"blocks": nn.ModuleList(block() for _ in range(count)), "head": nn.Linear(6, 5)})

    file = build(4).state_dict()
    state = loaded(build(3), file)
    assert all(torch.equal(value, file[name]) for name, value in state.items())
