"""Lists that count from different numbers, or leave numbers out: no place in a row says which member is which."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 6


def block():
    return nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "up": nn.Linear(WIDTH, 9), "down": nn.Linear(9, WIDTH)})


def net(name, first, length):
    return with_blocks(name, range(first, first + length))


def with_blocks(name, numbers, before=""):
    rows = nn.Module()
    for number in numbers:
        rows.add_module(f"{before}{number}", block())
    return filled(nn.ModuleDict({"embed": nn.Embedding(11, WIDTH), name: rows, "head": nn.Linear(WIDTH, 3)}))


@pytest.mark.parametrize(("ours", "theirs"), [((0, 6), (1, 4)), ((1, 4), (0, 6)), ((0, 4), (1, 6)), ((1, 6), (0, 4))])
def test_like_blocks_counted_otherwise_are_in_doubt(ours, theirs):
    file, model = net("layers", *ours).state_dict(), net("blocks", *theirs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="count this list from different numbers"):
        tg.load(model, file)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("names", [("blocks", "blocks"), ("layers", "blocks")])
@pytest.mark.parametrize(("ours", "theirs"), [((0, 4), (4, 4)), ((4, 4), (0, 4)), ((4, 4), (8, 4)), ((1, 3), (2, 3))])
def test_blocks_of_one_stage_of_a_pipeline_are_not_those_of_another(ours, theirs, names):
    file, model = net(names[0], *ours).state_dict(), net(names[1], *theirs)
    with pytest.raises(tg.PlanRefusedError, match="count this list from different numbers"):
        tg.load(model, file)
    file = net("blocks", *theirs).state_dict()
    tg.load(model, file)
    assert all(torch.equal(value, file[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("before", ["", "h"])
@pytest.mark.parametrize("around", ["", "module."])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((0, 1, 2, 4, 5), (0, 1, 2, 3, 5)),  # each side lacks another one
        ((0, 2, 4, 6), (0, 1, 2, 3)),  # every other one, under its old number or a new one
        ((0, 1, 2, 3), (0, 2, 4, 6)),
    ],
)
def test_blocks_that_were_left_out_leave_others_their_numbers(ours, theirs, around, before):
    file, model = with_blocks("blocks", ours, before).state_dict(), with_blocks("blocks", theirs, before)
    file = {around + name: value for name, value in file.items()}
    with pytest.raises(tg.PlanRefusedError, match="they may be names, and no places in a row"):
        tg.load(model, file)
    tg.load(model, file, on_doubt="skip")
    expect_own_names_or_none(model, file, around)


def expect_own_names_or_none(model, file, around=""):
    for name, value in model.state_dict().items():
        assert [other for other, held in file.items() if torch.equal(held, value)] in ([], [around + name])


def test_a_block_that_the_file_lacks_shifts_no_others_though_one_of_them_was_changed():
    file, model = with_blocks("blocks", (0, 1, 2, 4, 5, 6, 7)).state_dict(), with_blocks("blocks", range(8))
    del model["blocks"].get_submodule("6").norm
    tg.load(model, file, on_doubt="skip")
    expect_own_names_or_none(model, file)


@pytest.mark.parametrize("part", ["norm", "up", "down"])
@pytest.mark.parametrize("lacking", [(9, 10), (10, 9), (8, 9), (2, 6)])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_a_layer_of_one_block_is_not_that_of_another_whatever_both_sides_lack(part, lacking, is_sorted):
    file, model = net("blocks", 0, 12).state_dict(), net("blocks", 0, 12)
    file = {name: value for name, value in file.items() if f"blocks.{lacking[1]}.{part}." not in name}
    file = {name: file[name] for name in sorted(file)} if is_sorted else file
    del model["blocks"].get_submodule(str(lacking[0]))[part]
    tg.load(model, file, on_doubt="skip")
    expect_own_names_or_none(model, file)


@pytest.mark.parametrize("lengths", [(4, 4), (1, 1)])
def test_lists_of_equal_length_agree_whatever_they_count_from(lengths):
    file, model = net("layers", 0, lengths[0]).state_dict(), net("blocks", 1, lengths[1])
    tg.load(model, file)
    assert torch.equal(model.state_dict()["blocks.1.up.weight"], file["layers.0.up.weight"])


def test_lists_that_count_from_one_number_agree_as_far_as_the_shorter_goes():
    file, model = net("layers", 1, 4).state_dict(), net("blocks", 1, 6)
    tg.load(model, file)
    assert torch.equal(model.state_dict()["blocks.2.up.weight"], file["layers.2.up.weight"])


def attentions(outer, names, depth):
    layers = [
        nn.ModuleDict({name: nn.ModuleDict({part: nn.Linear(WIDTH, WIDTH) for part in "qkvo"}) for name in names})
        for _ in range(depth)
    ]
    return filled(nn.ModuleDict({outer: nn.ModuleList(layers)}))


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_two_attentions_in_each_layer_are_no_layers_however_many_there_are(depth):
    file = attentions("l", ("attn1", "attn2"), depth).state_dict()
    model = attentions("h", ("self_attn", "cross_attn"), depth)
    tg.load(model, file)
    assert torch.equal(model.state_dict()["h.0.cross_attn.k.weight"], file["l.0.attn2.k.weight"])


@pytest.mark.parametrize(("ours", "theirs"), [((1, 2, 3, 4), (0, 1, 2, 3)), ((1, 3, 5, 7), (0, 2, 4, 6))])
def test_blocks_of_one_build_that_change_their_numbers_are_likely_and_not_certain(ours, theirs):
    def net(members):
        return nn.ModuleDict({"blocks": nn.ModuleDict({str(n): block() for n in members}), "out": nn.Linear(WIDTH, 3)})

    plan = tg.plan(net(theirs), net(ours).state_dict())
    steps = [step for step in plan.steps if step.slot.name.startswith("blocks.")]
    moved = [step for step in steps if step.feeds[0].key != step.slot.name]
    assert len(moved) == len(steps)
    assert {step.certainty for step in moved} == {Certainty.LIKELY}
