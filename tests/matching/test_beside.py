"""Lists side by side on one side, a list of blocks on the other."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

DEPTH = 3


def blocks():
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Sequential(
            *(nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)) for _ in range(DEPTH))
        ),
    )


def lists(*, twins=False):
    parts = {"stem": nn.Conv2d(3, 8, 1)}
    for name, make in (
        ("wide", lambda: nn.Conv2d(8, 8, 3)),
        ("norms", lambda: nn.BatchNorm2d(8)),
        ("narrow", lambda: nn.Conv2d(8, 8, 1)),
    ):
        parts[name] = nn.ModuleList(make() for _ in range(DEPTH))
    if twins:
        parts["more"] = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(DEPTH))
    return nn.ModuleDict(parts)


@pytest.mark.parametrize("turned", [False, True])
def test_members_of_one_number_are_a_block(turned):
    source, target = (lists(), blocks()) if turned else (blocks(), lists())
    tg.load(target, filled(source).state_dict(), on_doubt="take")
    one, many = (source, target) if turned else (target, source)
    for at in range(DEPTH):
        for name, place in (("wide", 0), ("norms", 1), ("narrow", 2)):
            assert torch.equal(one[name][at].weight, many[1][at][place].weight)


def test_lists_of_the_same_names_stay_lists():
    source, target = filled(lists()), lists()
    plan = tg.plan(target, {f"net.{key}": value for key, value in source.state_dict().items()})
    assert all(
        step.feeds[0].key == f"net.{step.slot.name}" and step.certainty is Certainty.CERTAIN for step in plan.steps
    )


def test_what_only_the_lists_have_is_not_filled_for_sure():
    plan = tg.plan(lists(twins=True), filled(blocks()).state_dict(), on_doubt="take")
    for step in plan.steps:
        if step.slot.name.startswith(("norms", "more")) and step.feeds:
            assert step.certainty is not Certainty.CERTAIN


def attention():
    return nn.ModuleDict({part: nn.Linear(6, 6) for part in ("q", "k", "v", "out")})


def network():
    return nn.ModuleDict({"fc1": nn.Linear(6, 10), "fc2": nn.Linear(10, 6)})


@pytest.mark.parametrize("turned", [False, True])
def test_lists_of_modules_side_by_side_are_blocks_too(turned):
    many = nn.ModuleList(
        nn.ModuleDict({
            "attention": attention(), "norm": nn.LayerNorm(6), "feed_forward": network(), "final": nn.LayerNorm(6),
        })
        for _ in range(DEPTH)
    )  # fmt: skip
    makers = {"attn_layers": attention, "norm_layers_1": lambda: nn.LayerNorm(6), "ffn_layers": network,
              "norm_layers_2": lambda: nn.LayerNorm(6)}  # fmt: skip
    one = nn.ModuleDict({name: nn.ModuleList(make() for _ in range(DEPTH)) for name, make in makers.items()})
    source, target = (one, many) if turned else (many, one)
    tg.load(target, filled(source).state_dict(), on_doubt="take")
    for at, block in enumerate(many):
        for mine, other in zip(makers, block.values(), strict=True):
            pairs = zip(one[mine][at].parameters(), other.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
