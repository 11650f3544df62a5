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


@pytest.mark.parametrize("build", ["gru", "lstm", "layers", "inside"])
@pytest.mark.parametrize("back", [False, True])
def test_numbers_of_one_side_say_nothing_of_words_of_the_other(build, back):
    def part(names):
        parts = [BUILDS[build]() for _ in names]
        kept = (
            nn.ModuleDict(dict(zip(names, parts, strict=True))) if isinstance(names[0], str) else nn.ModuleList(parts)
        )
        return nn.ModuleDict({"embed": nn.Embedding(9, 6), "towers": kept, "out": nn.Linear(6, 7)})

    sides = part(["user", "item"]), part([0, 1])
    file, model = reversed(sides) if back else sides
    plan = tg.plan(model, file.state_dict())
    assert {step.slot.name for step in plan.doubtful} == {name for name in plan.by_slot if name.startswith("towers")}


@pytest.mark.parametrize("wrapped", [0, 1, 2])
def test_a_module_around_one_of_several_branches_says_nothing_of_their_order(wrapped):
    parts = {name: nn.GRU(6, 6) for name in ("foo", "fc_mu", "fc_var")}
    inner = list(parts)[wrapped]
    parts[inner] = nn.ModuleDict({"net": parts[inner]})
    model = nn.ModuleDict({"embed": nn.Embedding(9, 6), **parts, "out": nn.Linear(6, 7)})
    plan = tg.plan(model, net("gru", "mean", "logvar", "alpha").state_dict())
    assert {step.slot.name for step in plan.doubtful} == {n for n in plan.by_slot if n.split(".")[0] in parts}


@pytest.mark.parametrize("names", [("rnn_a", "rnn_b"), ("backward_rnn", "forward_rnn"), ("left", "right")])
@pytest.mark.parametrize("back", [False, True])
def test_directions_of_one_module_are_not_told_by_the_order_of_two(names, back):
    def layer(*names, **how):
        parts = {name: nn.LSTM(5, 6, **how) for name in names}
        return nn.ModuleDict({"stem": nn.Linear(3, 5), **parts, "out": nn.Linear(6, 7)})

    sides = layer(*names), layer("rnn", bidirectional=True)
    file, model = reversed(sides) if back else sides
    plan = tg.plan(model, file.state_dict())
    likely = {n for n, step in plan.by_slot.items() if step.feeds and step.certainty is not Certainty.DOUBT}
    assert likely == {"stem.weight", "stem.bias", "out.weight", "out.bias"}


def test_words_for_directions_tell_them():
    model = nn.ModuleDict({"stem": nn.Linear(3, 5), "rnn": nn.LSTM(5, 6, bidirectional=True)})
    saved = nn.ModuleDict({"stem": nn.Linear(3, 5), "forward_rnn": nn.LSTM(5, 6), "backward_rnn": nn.LSTM(5, 6)})
    saved = saved.state_dict()
    tg.load(model, saved)
    assert torch.equal(model["rnn"].weight_hh_l0, saved["forward_rnn.weight_hh_l0"])
    assert torch.equal(model["rnn"].weight_hh_l0_reverse, saved["backward_rnn.weight_hh_l0"])


def test_a_word_that_two_opposites_share_makes_neither_the_other():
    saved = net("layers", "forward_net", "right", "part_b").state_dict()
    plan = tg.plan(net("layers", "left", "backward_net", "part_b"), saved)
    sure = {n for n, step in plan.by_slot.items() if step.feeds and step.certainty is not Certainty.DOUBT}
    assert {n.split(".")[0] for n in sure} == {"embed", "part_b", "out"}


def test_a_table_under_a_wrapper_that_has_a_word_of_its_name_is_none_that_was_added():
    """`critic_net` went, and `net.item` was added: that all of the model lies in `net` says nothing."""
    model = nn.ModuleDict({"net": net("raw", "left", "item")})
    saved = {f"model.{name}": value for name, value in net("raw", "left", "critic_net").state_dict().items()}
    plan = tg.plan(model, saved)
    assert {step.slot.name for step in plan.doubtful} == {"net.item.keys", "net.item.values"}


def test_a_vector_of_a_part_that_went_is_no_likelier_than_its_matrix():
    saved, model = net("raw with bias", "left", "gone").state_dict(), net("raw with bias", "mean", "left")
    plan = tg.plan(model, saved)
    assert {n for n, step in plan.by_slot.items() if step.feeds and step.certainty is not Certainty.DOUBT} == {
        n for n in plan.by_slot if not n.startswith("mean")
    }
