"""Like modules whose names differ on the two sides: the order in which they are registered tells nothing of which is which."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


class Table(nn.Module):
    """A module of raw tensors."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))


BUILDS = {
    "gru": lambda: nn.GRU(6, 6),
    "lstm": lambda: nn.LSTMCell(6, 6),
    "raw": lambda: Table(keys=(5, 6), values=(5, 7)),
    "raw with bias": lambda: Table(W=(3, 6, 6), b=(3,)),
    "layers": lambda: nn.ModuleDict({"fc1": nn.Linear(6, 8), "fc2": nn.Linear(8, 6)}),
    "inside": lambda: nn.ModuleDict({"rnn": nn.GRU(6, 6)}),
}


def net(build, *names):
    parts = {name: BUILDS[build]() for name in names}
    return nn.ModuleDict({"embed": nn.Embedding(9, 6), **parts, "out": nn.Linear(6, 7)})


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("names", [("foo", "bar"), ("policy", "value"), ("bar",)])
def test_like_modules_are_in_doubt_where_no_word_says_which_is_which(build, names):
    plan = tg.plan(net(build, *names), net(build, "actor", "critic").state_dict())
    for slot, step in plan.by_slot.items():
        around = slot.split(".")[0] in names
        assert (step.certainty is Certainty.DOUBT) if around and step.feeds else step.certainty is Certainty.CERTAIN


@pytest.mark.parametrize("build", BUILDS)
def test_one_module_of_the_file_may_be_either_of_two_of_the_model(build):
    plan = tg.plan(net(build, "foo", "bar"), net(build, "actor").state_dict())
    assert {step.certainty for step in plan.steps if step.feeds and "actor" in step.feeds[0].key} <= {Certainty.DOUBT}


@pytest.mark.parametrize(
    "build", [name for name in BUILDS if name != "raw with bias"]
)  # a bias with the name of the module itself stays in doubt
@pytest.mark.parametrize("names", [("critic_net", "actor_net"), ("critic", "actor")])
def test_a_word_in_common_says_which_is_which(build, names):
    saved, model = net(build, "actor", "critic").state_dict(), net(build, *names)
    tg.load(model, saved, on_doubt="take")
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name.replace("_net", "")])


def test_numbers_say_it_where_both_sides_count():
    saved, model = net("gru", "rnn1", "rnn2").state_dict(), net("gru", "gru_a", "gru_b")
    tg.load(model, saved)
    assert torch.equal(model["gru_b"].weight_hh_l0, saved["rnn2.weight_hh_l0"])
