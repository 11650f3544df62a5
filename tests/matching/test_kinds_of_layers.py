"""In a file that has lost its order, a word for the kind of layer doesn't tell one layer from another of that kind."""

import pytest
from filling import filled, nested
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.evidence.scores import gather
from torchgraft.matching.judging.rivals import fit_only_so
from torchgraft.matching.parts.units import group
from torchgraft.matching.solving.read_as_blocks import ANY, read_as_blocks

WIDTH = 8


def misplaced(model, saved, truth):
    """Return the slots that get another tensor without doubt than that of their layer, from a file sorted by name."""
    plan = tg.plan(model, dict(sorted(saved.state_dict().items())), on_doubt="skip")
    found = {step.slot.name: step.feeds[0].key for step in plan.steps if step.feeds}
    return {slot: key for slot, key in found.items() if truth[key.rpartition(".")[0]] != slot.rpartition(".")[0]}


def stage(block, names, linear):
    """Return a block of two layers with their norms, and a shortcut; `linear` ones are matrices."""
    widths = (WIDTH, 2 * WIDTH), (2 * WIDTH, 2 * WIDTH), (WIDTH, 2 * WIDTH)
    layers = [nn.Linear(a, b) if linear else nn.Conv2d(a, b, 1, bias=False) for a, b in widths]
    norm = nn.LayerNorm if linear else nn.BatchNorm2d
    both = [one for layer in layers for one in (layer, norm(2 * WIDTH))]
    return {f"{block}.{name}": module for name, module in zip(names, both, strict=True)}


SILENT = ("body.0", "body.1", "body.3", "body.4", "shortcut.linear", "shortcut.norm")
SPEAKING = ("linear0.linear", "linear0.ln", "linear1.linear", "linear1.ln", "proj", "proj_ln")
TURNED = ("convs.0", "norms.0", "convs.1", "norms.1", "shortcut.conv", "shortcut.bn")
NUMBERED = ("conv0", "bn0", "conv1", "bn1", "proj", "proj_norm")


@pytest.mark.parametrize("linear", [False, True], ids=["kernels", "matrices"])
@pytest.mark.parametrize(
    ("own", "theirs"), [(SILENT, SPEAKING), (SPEAKING, SILENT), (TURNED, NUMBERED), (NUMBERED, TURNED)]
)
def test_a_layer_goes_to_no_shortcut_for_a_word_like_conv(own, theirs, linear):
    model = filled(nested(stage("stage.0", own, linear) | stage("stage.1", own, linear)))
    saved = filled(nested(stage("level.0", theirs, linear) | stage("level.1", theirs, linear)))
    truth = {
        f"level.{at}.{there}": f"stage.{at}.{here}" for at in range(2) for here, there in zip(own, theirs, strict=True)
    }
    assert misplaced(model, saved, truth) == {}


def units(shapes):
    leaves = [
        Leaf(name=name, shape=shape, dtype=DType.F32, keys=(name,), order=at)
        for at, (name, shape) in enumerate(shapes.items())
    ]
    return group(leaves)


@pytest.mark.parametrize("registered", [(True, True), (False, True)])
def test_where_order_is_lost_stages_are_no_blocks_made_of_lists(registered):
    stages = {
        f"{stage}.{at}.{layer}.weight": (WIDTH + kind * at, width)
        for stage, width in (("birch", 12), ("kelp", 20))
        for at in range(2)
        for kind, layer in enumerate("xy")
    }
    parts = {
        f"blocks.{at}.{part}.{layer}.weight": (WIDTH + kind * at, width)
        for at in range(2)
        for part, width in (("a", 12), ("b", 20))
        for kind, layer in enumerate("xy")
    }
    read, _ = read_as_blocks(units(stages), units(parts), registered)
    assert any(ANY in unit.path for unit in read) is all(registered)


@pytest.mark.parametrize(("bias", "only_so"), [({"b.norm.bias": (WIDTH,), "y.bias": (WIDTH,)}, True), ({}, False)])
def test_what_would_leave_a_bias_over_when_swapped_fits_only_as_it_is(bias, only_so):
    ours = units({"a.weight": (WIDTH,), "b.norm.weight": (WIDTH,)} | {k: v for k, v in bias.items() if k[0] == "b"})
    theirs = units({"x.weight": (WIDTH,), "y.weight": (WIDTH,)} | {k: v for k, v in bias.items() if k[0] == "y"})
    assert fit_only_so((0, 0), (1, 1), gather(ours, theirs)) is only_so
