"""From which end decoders are counted is told by shapes, also where one side's members hold more than the other's."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTHS = (24, 16, 8)


def apart():
    """Layers that enlarge, and heads, in lists beside the stages, as nnU-Net has them."""
    state = {}
    for n, (wide, out) in enumerate(pairwise(WIDTHS)):
        state[f"decoder.stages.{n}.convs.0.weight"] = torch.rand(out, 2 * out, 3, 3)
        state[f"decoder.stages.{n}.convs.1.weight"] = torch.rand(out, out, 3, 3)
        state[f"decoder.transpconvs.{n}.weight"] = torch.rand(wide, out, 2, 2)
        state[f"decoder.heads.{n}.weight"] = torch.rand(4, out, 1, 1)
    return state


def together(numbers):
    """All but the heads in one member, counted as `numbers` say; one head for all."""
    state = {}
    for n, (wide, out) in zip(numbers, pairwise(WIDTHS), strict=True):
        state[f"upsamples.{n}.transp_conv.weight"] = torch.rand(wide, out, 2, 2)
        state[f"upsamples.{n}.block.conv1.weight"] = torch.rand(out, 2 * out, 3, 3)
        state[f"upsamples.{n}.block.conv2.weight"] = torch.rand(out, out, 3, 3)
    return dict(sorted(state.items(), key=lambda item: item[0].split(".")[1])) | {
        "out.weight": torch.rand(4, WIDTHS[-1], 1, 1)
    }


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
@pytest.mark.parametrize("swapped", [False, True])
def test_units_tell_the_end_where_members_as_a_whole_differ(numbers, swapped):
    sides = [apart(), together(numbers)][:: -1 if swapped else 1]
    plan = tg.plan(sides[1], sides[0], on_doubt="take")
    for step in plan.steps:
        if not ("stages" in step.slot.name or "block" in step.slot.name):
            continue  # heads have no partners for certain
        assert step.certainty is not Certainty.DOUBT
        ours, theirs = step.feeds[0].key.split("."), step.slot.name.split(".")
        at = [int(next(part for part in path if part.isdecimal())) for path in (ours, theirs)]
        assert at[0] == numbers.index(at[1]), step.slot.name
