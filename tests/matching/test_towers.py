"""Two towers, other depths: what bears the name of the one never goes into the other without a word."""

import pytest
import torch
from filling import filled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty
from torchgraft.matching.names.towers import Towers

NAMES = [("student", "teacher"), ("vision", "text"), ("generator", "critic"), ("encoder", "decoder")]
INSIDE = [
    {"list": "layers", "up": "fc1", "down": "fc2", "norm": "norm"},
    {"list": "blocks", "up": "c_fc", "down": "c_proj", "norm": "ln_1"},
    {"list": "layers", "up": "mlp.0", "down": "mlp.2", "norm": "layer_norm"},
]


def block(words):
    made = {}
    for what, layer in (("norm", nn.LayerNorm(6)), ("up", nn.Linear(6, 8)), ("down", nn.Linear(8, 6))):
        outer, _, inner = words[what].partition(".")
        if inner:
            made.setdefault(outer, nn.ModuleDict())[inner] = layer
        else:
            made[outer] = layer
    return nn.ModuleDict(made)


def model(names, words, depths):
    towers = {
        name: nn.ModuleDict({words["list"]: nn.ModuleList([block(words) for _ in range(depth)])})
        for name, depth in zip(names, depths, strict=True)
    }
    return filled(nn.ModuleDict({"embed": nn.Linear(5, 6), **towers, "head": nn.Linear(6, 3)}))


def sure(plan):
    return [(s.slot.name, s.feeds[0].key) for s in plan.steps if s.feeds and s.certainty is not Certainty.DOUBT]


depths = st.tuples(st.integers(1, 4), st.integers(1, 4))


side = st.tuples(st.sampled_from(INSIDE), depths)


@given(st.sampled_from(NAMES), st.booleans(), side, side, st.sampled_from(["", "module."]))
@settings(max_examples=40, deadline=None)
def test_what_is_sure_stays_in_the_tower_of_its_name(names, exchanged, theirs, mine, wrapper):
    file = {wrapper + name: value for name, value in model(names, *theirs).state_dict().items()}
    order = names[::-1] if exchanged else names
    for slot, key in sure(tg.plan(model(order, *mine), file, on_doubt="take")):
        assert [name for name in names if name in slot.split(".")] == [n for n in names if n in key.split(".")]


def test_towers_of_the_same_depths_in_another_order_are_refused_and_rename_settles_it():
    """Only the numbers of blocks speak for the exchange."""
    file = model(("student", "teacher"), INSIDE[0], (3, 2)).state_dict()
    mine = model(("teacher", "student"), INSIDE[1], (3, 2))
    with pytest.raises(tg.PlanRefusedError, match="by name it belongs to another part of the network"):
        tg.load(mine, file)
    exchanged = {"student.layers.": "teacher.blocks.", "teacher.layers.": "student.blocks."}
    report = tg.load(mine, file, rename=exchanged)
    assert torch.equal(mine.state_dict()["teacher.blocks.2.c_fc.weight"], file["student.layers.2.fc1.weight"])
    assert not report.plan.doubtful


@pytest.mark.parametrize(
    ("ours", "theirs", "change"),
    [
        ("net.student.blocks.3", "teacher.layers.3", True),
        ("net.student.blocks.3", "student.layers.3", False),
        ("net.student.blocks.3", "other.layers.3", False),
        ("net.stage1.0", "stage2.0", False),
        ("encoder.layers.3", "model.decoder.layers.3", True),
        ("decoder.sentence_encoder.layers.3", "encoder.layer.3", False),
    ],
)
def test_which_paths_change_the_tower(ours, theirs, change):
    sources = ["net.student.blocks.3", "net.teacher.blocks.3", "net.stage1.0", "net.stage2.0"]
    targets = ["student.layers.3", "teacher.layers.3", "stage1.0", "stage2.0", "other.layers.3"]
    assert Towers(sources, targets).change(ours, theirs) is change


def test_an_encoder_alone_is_no_decoder_alone():
    def network(name):
        return filled(
            nn.ModuleDict({name: nn.ModuleDict({"layers": nn.ModuleList([block(INSIDE[0]) for _ in range(3)])})})
        )

    plan = tg.plan(nn.ModuleDict({"model": network("decoder")}), network("encoder").state_dict())
    assert not sure(plan)
    assert plan.refusals
