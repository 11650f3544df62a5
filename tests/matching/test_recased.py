"""Files whose names are the model's in other letters: roles are read in them, and no doubt is left where names agree."""

import re

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.matching.names.spelling import recased

WIDTH = 4


class Attention(nn.Module):
    def __init__(self, *, scaled):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 2)
        self.ln_1 = nn.LayerNorm(WIDTH)
        if scaled:
            self.gamma = nn.Parameter(torch.randn(3 * WIDTH))


def camel(name):
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


@pytest.mark.parametrize("spell", [str.upper, camel, lambda name: name.upper().replace(".", "/")])
def test_a_bias_in_other_letters_stays_a_bias(spell):
    file, model = Attention(scaled=False), Attention(scaled=True)
    state = file.state_dict()
    with torch.no_grad():
        for value in state.values():
            value.normal_()
    before = model.gamma.detach().clone()
    tg.load(model, {spell(name): value for name, value in state.items()}, policy=tg.Policy(coverage=tg.Verdict.WARN))
    assert torch.equal(model.gamma, before)
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_twins_registered_the_other_way_round_go_by_their_names():
    one, other = (
        nn.ModuleDict({name: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)) for name in order})
        for order in (("cv1", "cv2"), ("cv2", "cv1"))
    )
    tg.load(other, {name.upper(): value for name, value in one.state_dict().items()})
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("key", "names", "read"),
    [
        ("RNN.WEIGHT_HH_L0", ["rnn.weight_hh_l0"], "rnn.weight_hh_l0"),
        ("rnn.weightHhL0Reverse", ["rnn.weight_hh_l0_reverse"], "rnn.weight_hh_l0_reverse"),
        ("Dense_0.kernel", ["dense0.kernel"], None),  # numbers are counted elsewhere
        ("mix.A_log", ["mix.A_log", "mix.a_log"], None),  # the model's own
        ("mix.ALog", ["mix.A_log", "mix.a_log"], None),  # two of the model's
        ("layernorm.weight", ["layer_norm.weight"], None),  # no capital letter
    ],
)
def test_only_case_and_joints_before_letters_are_read_otherwise(key, names, read):
    assert recased([key], names) == ({key: read} if read else {})


def test_two_keys_that_would_become_one_keep_their_names():
    assert recased(["a.BIAS", "a.bias"], ["a.bias"]) == {}
