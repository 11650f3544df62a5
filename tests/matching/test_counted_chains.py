"""Chains of layers of one shape, which both sides count under other names; and layers of blocks that have norms alike alone."""

from __future__ import annotations

import pytest
from filling import filled, nested
from torch import nn

import torchgraft as tg

WIDTHS = ((3, 4), (4, 4), (4, 6), (6, 6), (6, 6), (6, 6), (6, 6), (6, 6))
FLAT = [f"features.{at}" for at in (0, 2, 5, 7, 10, 12, 14, 17)]
COUNTED = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv4_1"]
SLICED = [f"net.slice{1 + at // 4}.{name.rpartition('.')[2]}" for at, name in enumerate(FLAT)]


def chain(names: list[str]) -> nn.Module:
    return filled(nested({name: nn.Conv2d(*width, 3) for name, width in zip(names, WIDTHS, strict=True)}))


@pytest.mark.parametrize(("ours", "theirs"), [(FLAT, COUNTED), (COUNTED, FLAT), (SLICED, COUNTED), (COUNTED, SLICED)])
def test_layers_of_one_shape_go_in_order_where_both_sides_count_them(ours: list[str], theirs: list[str]) -> None:
    file, model = chain(ours), chain(theirs)
    plan = tg.load(model, file.state_dict()).plan
    fed = {step.slot.name: step.feeds[0].key for step in plan.steps}
    assert fed == {
        f"{there}.{role}": f"{here}.{role}"
        for here, there in zip(ours, theirs, strict=True)
        for role in ("weight", "bias")
    }


@pytest.mark.parametrize("theirs", [["conv4_1", *COUNTED[5:7]], ["left_1", "right_1", "left_2"]])
def test_layers_that_the_model_counts_otherwise_are_in_doubt(theirs: list[str]) -> None:
    file, model = chain(FLAT), chain([*COUNTED[:5], *theirs])
    with pytest.raises(tg.PlanRefusedError, match="could change places"):
        tg.load(model, file.state_dict())


def bottlenecks(block: str, names: tuple[str, ...]) -> nn.Module:
    layers: dict[str, nn.Module] = {}
    for at in (1, 2):
        for name, (taken, kernel) in zip(names, ((16, 1), (12, 3), (12, 1)), strict=True):
            width = 16 if name == names[2] else 12
            layers[f"{block.format(at)}.{name}.conv"] = nn.Conv2d(taken, width, kernel, bias=False)
            layers[f"{block.format(at)}.{name}.bn"] = nn.BatchNorm2d(width)
    return filled(nested(layers))


def test_a_layer_of_another_kernel_is_no_twin_for_its_norm() -> None:
    file = bottlenecks("stage.unit{}", ("conv1", "conv2", "conv3"))
    model = bottlenecks("conv2_{}", ("c1x1_a", "c3x3_b", "c1x1_c"))
    plan = tg.load(model, file.state_dict()).plan
    fed = {step.slot.name: step.feeds[0].key for step in plan.steps}
    assert fed["conv2_2.c3x3_b.bn.weight"] == "stage.unit2.conv2.bn.weight"
