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


def autoencoder(up, block, down, *, backwards):
    """An encoder and a decoder of equal widths but for the finest level, each level with several blocks, as in latent diffusion."""
    widths = (8, 16, 16)
    state = {}
    for side, row, count in (("encoder", down, 2), ("decoder", up, 3)):
        levels = list(enumerate(widths)) if side == "encoder" else list(enumerate(widths[::-1]))
        before = levels[0][1]
        built = []
        for n, width in levels:
            named = len(widths) - 1 - n if backwards and side == "decoder" else n
            level = {}
            for b in range(count):
                at = f"{side}.{row}.{named}.{block}.{b}"
                level |= {
                    f"{at}.conv1.weight": torch.rand(width, before, 3, 3),
                    f"{at}.conv2.weight": torch.rand(width, width, 3, 3),
                }
                level |= {f"{at}.norm.weight": torch.rand(width)}
                before = width
            built.append((named, level))
        for _, level in sorted(built, key=lambda item: item[0]):
            state |= level
    return state


@pytest.mark.parametrize("swapped", [False, True])
def test_blocks_of_levels_of_one_width_go_where_the_others_say_that_lists_go(swapped):
    sides = (
        autoencoder("up", "block", "down", backwards=True),
        autoencoder("up_blocks", "resnets", "down_blocks", backwards=False),
    )
    source, model = sides[:: -1 if swapped else 1]
    plan = tg.plan(model, source, on_doubt="take")
    for step in plan.steps:
        ours, theirs = step.feeds[0].key.split("."), step.slot.name.split(".")
        numbers = [int(path[2]) for path in (ours, theirs)]
        assert ours[0] == theirs[0]
        assert ours[4:] == theirs[4:]
        assert step.certainty is not Certainty.DOUBT
        assert numbers[1] == (2 - numbers[0] if ours[0] == "decoder" else numbers[0])
