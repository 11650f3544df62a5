"""Lists that the two sides count from opposite ends."""

from itertools import pairwise

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def step(width, out, names):
    return nn.ModuleDict({names[0]: nn.Conv2d(width, out, 3), names[1]: nn.Conv2d(out, out, 1)})


def decoder(widths, around, name, names, *, back):
    """A decoder from coarse to fine; its list is counted from the fine end where it is counted `back`."""
    steps = [step(a, b, names) for a, b in pairwise(widths)]
    listed = nn.ModuleList(reversed(steps) if back else steps)
    return filled(nn.ModuleDict({around: nn.ModuleDict({"conv_in": nn.Conv2d(2, widths[0], 1), name: listed})}))


def fed_members(source, target, **how):
    plan = tg.plan(target, source.state_dict(), **how)
    return {
        tuple(map(int, (step.slot.name.split(".")[2], step.feeds[0].key.split(".")[2]))): step.certainty.name
        for step in plan.steps
        if step.feeds and "conv_in" not in step.slot.name
    }


SIDES = ("decoder", "up", ("conv1", "conv2")), ("decoder", "up_blocks", ("first", "second"))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_shapes_that_tell_some_members_apart_tell_the_direction_of_all(back, turned):
    widths = (12, 12, 12, 8, 4)
    ours = decoder(widths, *SIDES[0], back=back)
    theirs = decoder(widths, *SIDES[1], back=False)
    met = fed_members(*((theirs, ours) if turned else (ours, theirs)), on_doubt="take")
    assert set(met) == {(at, 3 - at if back else at) for at in range(4)}


@pytest.mark.parametrize("names", [("decoder.up", "decoder.up_blocks"), ("neck.fusion", "scratch.joined")])
def test_where_nothing_tells_the_direction_of_a_decoder_its_members_are_in_doubt(names):
    ours, theirs = (
        decoder((6, 6, 6, 6), *name.split("."), side[2], back=False) for name, side in zip(names, SIDES, strict=True)
    )
    met = fed_members(ours, theirs, on_doubt="take")
    assert set(met.values()) == {"DOUBT"}
    with pytest.raises(tg.PlanRefusedError, match="counted from either end"):
        tg.load(theirs, ours.state_dict())


def test_layers_of_an_encoder_are_counted_from_its_input():
    ours = decoder((6, 6, 6, 6), "encoder", "blocks", ("conv1", "conv2"), back=False)
    theirs = decoder((6, 6, 6, 6), "encoder", "layers", ("first", "second"), back=False)
    met = fed_members(ours, theirs, on_doubt="take")
    assert set(met) == {(0, 0), (1, 1), (2, 2)}
    assert "DOUBT" not in set(met.values())


def test_the_last_of_a_list_that_is_counted_back_feeds_the_first():
    ours = nn.ModuleDict({"scratch": nn.ModuleDict({f"refinenet{at}": step(6, 6, SIDES[0][2]) for at in range(1, 4)})})
    theirs = nn.ModuleDict(
        {"fusion_stage": nn.ModuleDict({"layers": nn.ModuleList([step(6, 6, SIDES[1][2]) for _ in range(3)])})}
    )
    plan = tg.plan(filled(theirs), filled(ours).state_dict(), on_doubt="take")
    met = {(s.slot.name.split(".")[2], s.feeds[0].key.split(".")[1]) for s in plan.steps if s.feeds}
    assert met == {("0", "refinenet3"), ("1", "refinenet2"), ("2", "refinenet1")}
    assert {s.certainty.name for s in plan.steps} == {"DOUBT"}


@pytest.mark.parametrize(("file", "here"), [("text", "decoder"), ("decoder", "text"), ("dec", "decoder")])
def test_blocks_of_a_transformer_are_counted_from_the_first_whatever_their_list_is_called(file, here):
    def net(name, *parts):
        blocks = [
            nn.ModuleDict(
                {
                    "sa": nn.ModuleDict({part: nn.Linear(8, 8) for part in parts}),
                    "up": nn.Linear(8, 16),
                    "down": nn.Linear(16, 8),
                }
            )
            for _ in range(3)
        ]
        return filled(nn.ModuleDict({name: nn.ModuleDict({"layers": nn.ModuleList(blocks)})}))

    source, target = net(file, "wq", "wk", "wv", "wo"), net(here, "query", "key", "value", "out")
    tg.load(target, source.state_dict())
    for n in range(3):
        ours, theirs = source[file]["layers"][n], target[here]["layers"][n]
        assert torch.equal(theirs["sa"]["query"].weight, ours["sa"]["wq"].weight)


class Stages(nn.Module):
    """Stages of as many blocks as there are stages; the first block of each changes the width, and has a shortcut."""

    def __init__(self, around, name, names, *, shortcuts=True, widths=(4, 6, 8, 10)):
        super().__init__()
        stages = {}
        for at, (width, out) in enumerate(pairwise(widths), 1):
            blocks = [step(width if n == 0 and shortcuts else out, out, names) for n in range(3)]
            if shortcuts:
                blocks[0]["shortcut"] = nn.Conv2d(width, out, 1, bias=False)
            stages[f"{name}{at}"] = nn.ModuleList(blocks)
        self.add_module(around, nn.ModuleDict(stages))


def test_blocks_of_a_stage_face_blocks_and_not_the_stages_around_them():
    ours = filled(Stages("body", "layer", ("conv1", "conv2")))
    theirs = filled(Stages("decoder", "res", ("first", "second")))
    plan = tg.plan(theirs, ours.state_dict())
    assert {s.slot.name.split(".")[2] == s.feeds[0].key.split(".")[2] for s in plan.steps} == {True}
    assert not plan.doubtful, "each list has a first block of other shapes"


def test_what_goes_bottom_up_is_no_decoder():
    ours = filled(Stages("body", "layer", ("conv1", "conv2"), shortcuts=False))
    for around, sure in (("bottom_up", True), ("up", False)):
        plan = tg.plan(Stages(around, "res", ("first", "second"), shortcuts=False), ours.state_dict())
        assert sure is not any("either end" in s.why.doubt for s in plan.steps)


def test_what_its_members_hold_is_counted_as_everywhere():
    def units(name, *layers):
        held = {f"{name}{at}": nn.ModuleDict({layer: nn.Conv2d(6, 6, 3) for layer in layers}) for at in (1, 2)}
        return nn.ModuleDict({"merge": nn.Conv2d(6, 6, 1)} | held)

    ours = nn.ModuleDict({f"refinenet{at}": units("resConfUnit", "conv1", "conv2") for at in range(1, 4)})
    layers = nn.ModuleList([units("residual_layer", "convolution1", "convolution2") for _ in range(3)])
    theirs = nn.ModuleDict({"fusion_stage": nn.ModuleDict({"layers": layers})})
    plan = tg.plan(filled(theirs), filled(nn.ModuleDict({"scratch": ours})).state_dict(), on_doubt="take")
    inner = [
        (s.slot.name.split(".")[3][-1], s.feeds[0].key.split(".")[2][-1])
        for s in plan.steps
        if "layer1" in s.slot.name or "layer2" in s.slot.name
    ]
    assert len(inner) == 3 * 2 * 2 * 2
    assert all(here == there for here, there in inner)


@pytest.mark.parametrize("like", [True, False])
def test_blocks_that_attend_and_convolve_along_one_axis_count_from_the_front_where_all_are_alike(like):
    """A decoder of Conformers is no pyramid; one in which a block has a layer more may be."""

    def net(name, layer, names):
        blocks = [
            nn.ModuleDict({"attn": nn.ModuleDict({x: nn.Linear(6, 6) for x in names}), layer: nn.Conv1d(6, 6, 3)})
            for _ in range(3)
        ]
        if not like:
            blocks[1]["up"] = nn.Conv1d(6, 6, 4)
        return filled(nn.ModuleDict({"decoder": nn.ModuleDict({name: nn.ModuleList(blocks)})}))

    source = net("encoders", "w_1", ("linear_q", "linear_k", "linear_v", "linear_out"))
    plan = tg.plan(net("conformer_layers", "conv", ("q", "k", "v", "o")), source.state_dict())
    assert like is not any("either end" in s.why.doubt for s in plan.steps)
