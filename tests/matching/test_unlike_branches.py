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
    "layer": lambda: nn.Linear(6, 6),
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


@pytest.mark.parametrize("build", ["layer", "raw", "raw with bias", "layers"])
def test_what_is_left_on_both_sides_is_no_pair_for_want_of_another(build):
    """One part was taken out of the network and another one put in, as others of that build are."""
    saved = net(build, "image", "glob", "scale").state_dict()
    model = net(build, "glob", "text", "image")
    plan = tg.plan(model, saved)
    for slot, step in plan.by_slot.items():
        if slot.startswith("text"):
            assert not step.feeds or step.certainty is Certainty.DOUBT
        else:
            assert step.feeds[0].key == slot


@pytest.mark.parametrize("build", ["gru", "lstm", "raw"])
def test_a_wrapper_around_one_of_them_says_nothing_either(build):
    model = net(build, "actor", "user", "right")
    model["user"] = nn.ModuleDict({"layer": model["user"]})
    plan = tg.plan(model, net(build, "glob", "pi", "user_tower", "right").state_dict())
    for slot, step in plan.by_slot.items():
        if slot.startswith(("actor", "user")) and step.feeds:
            named = slot.startswith("user") and step.feeds[0].key.startswith("user_tower")
            assert named or step.certainty is Certainty.DOUBT


@pytest.mark.parametrize("build", ["gru", "lstm", "raw", "layers", "inside"])
@pytest.mark.parametrize(("gone", "new"), [("scale", "text"), ("policy_net", "time_net"), ("user_tower", "item_tower")])
def test_a_part_in_the_place_of_one_that_is_gone_may_be_a_new_one(build, gone, new):
    """A word that all parts have, and leaf names that all modules of a class have, say nothing of who is who."""
    plan = tg.plan(net(build, new, "value_net", "tower"), net(build, gone, "value_net", "tower").state_dict())
    for slot, step in plan.by_slot.items():
        assert step.certainty is (Certainty.DOUBT if slot.startswith(new) else Certainty.CERTAIN)


@pytest.mark.parametrize("build", ["gru", "layers", "inside"])
@pytest.mark.parametrize(
    ("old", "new"), [("glob", "global_net"), ("txt", "text"), ("fw", "forward_net"), ("u", "user"), ("head2", "h_net2")]
)
def test_a_shortened_word_or_a_number_says_it(build, old, new):
    saved, model = net(build, old, "value_net", "head1").state_dict(), net(build, new, "value_net", "head1")
    tg.load(model, saved)
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name.replace(f"{new}.", f"{old}.")])


def test_a_wrapper_around_a_part_of_that_build_is_no_new_name():
    saved = net("gru", "actor", "critic").state_dict()
    model = net("gru", "actor", "critic")
    model["actor"] = nn.ModuleDict({"net": model["actor"]})
    tg.load(model, saved)
    assert torch.equal(model["actor"]["net"].weight_hh_l0, saved["actor.weight_hh_l0"])


def test_members_of_lists_that_numbers_in_names_count_are_no_twins():
    saved = nn.ModuleDict({"s1": net("layers", "b1", "b2", "b3")}).state_dict()
    model = nn.ModuleDict({"trunk": net("layers", "block1-0", "block1-1", "block1-2")})
    tg.load(model, saved)
    assert torch.equal(model["trunk"]["block1-1"]["fc1"].weight, saved["s1.b2.fc1.weight"])
