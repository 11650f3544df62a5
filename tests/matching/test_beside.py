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


GATED = [
    ("fc_1", "fc_2", "proj"), ("fc1", "fc2", "fc3"), ("w1", "w2", "w3"), ("w1", "w3", "w2"), ("w2", "w1", "c_proj"),
    ("fc12", "fc11", "fc2"), ("fc1_g", "fc1_x", "fc2"), ("wi_0", "wi_1", "wo"), ("c_fc1", "c_fc2", "c_proj"),
]  # fmt: skip


def gated(gate, up, down, width=16, inner=24):
    """Return blocks with a norm and a gated network, of layers that are registered as they are numbered."""
    shapes = {gate: (width, inner), up: (width, inner), down: (inner, width)}
    blocks = [
        nn.ModuleDict(
            {
                "norm": nn.LayerNorm(width),
                "mlp": nn.ModuleDict({n: nn.Linear(*shapes[n], bias=False) for n in sorted(shapes)}),
            }
        )
        for _ in range(3)
    ]
    return filled(nn.ModuleDict({"layers": nn.ModuleList(blocks)}))


@pytest.mark.parametrize("names", GATED)
@pytest.mark.parametrize("back", [False, True])
def test_layers_of_a_gated_network_are_told_by_their_shapes_and_numbers(names, back):
    known = ("gate_proj", "up_proj", "down_proj")
    ours, theirs = (known, names) if back else (names, known)
    model, saved = gated(*ours), gated(*theirs)
    tg.load(model, saved.state_dict())
    for block, other in zip(model["layers"], saved["layers"], strict=True):
        assert all(
            torch.equal(block["mlp"][a].weight, other["mlp"][b].weight) for a, b in zip(ours, theirs, strict=True)
        )


def test_square_layers_of_a_gated_network_stay_in_doubt():
    plan = tg.plan(
        gated("fc_1", "fc_2", "proj", 16, 16), gated("gate_proj", "up_proj", "down_proj", 16, 16).state_dict()
    )
    assert {step.slot.name.split(".")[3] for step in plan.doubtful} >= {"fc_1", "fc_2"}


def test_lists_beside_each_other_may_have_members_that_are_read_as_none():
    """`linears.0` is read as the query of its attention, with another list as long beside it."""
    linears, norms = ([make() for _ in range(4)] for make in (lambda: nn.Linear(8, 8), lambda: nn.LayerNorm(8)))
    attn = nn.ModuleDict({"linears": nn.ModuleList(linears), "norms": nn.ModuleList(norms)})
    layers = {name: layer for n in range(4) for name, layer in ((f"l{n}", linears[n]), (f"n{n}", norms[n]))}
    source, target = nn.ModuleDict({"attn": attn}), nn.ModuleDict({"part": nn.ModuleDict(layers)})
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    assert len([step for step in plan.steps if step.feeds]) == 16
