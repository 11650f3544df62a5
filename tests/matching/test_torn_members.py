"""A part of a member of a list doesn't leave it, or come from outside, where most of the member is left."""

import pytest
import torch
from scoring import Case, decided

import torchgraft as tg


def blocks(path, count):
    return {
        f"{path}blocks.{at}.{name}": shape
        for at in range(count)
        for name, shape in {
            "attn.weight": [8, 8],
            "mlp.fc1.weight": [16, 8],
            "mlp.fc1.bias": [16],
            "mlp.fc2.weight": [8, 16],
        }.items()
    }


BODY = {"stem.weight": [8, 3, 2, 2], "head.weight": [5, 8], **blocks("image.", 2)}


@pytest.mark.parametrize("side", [0, 1])
def test_a_layer_of_a_block_that_is_left_is_asked_about(side):
    """A block was taken out, and a layer called as one of its own added: it was filled, as certain, as other prefixes change."""
    deep = {f"module.{name}": shape for name, shape in {**BODY, **blocks("text.", 2)}.items()}
    shallow = {"fc1.weight": [16, 8], "fc1.bias": [16], **BODY, **blocks("text.", 1)}
    found = decided(Case(deep, shallow) if side == 0 else Case(shallow, deep))
    part = ("fc1.", "module.text.blocks.1.mlp.fc1.")[side]
    assert {sure for name, (_, sure) in found.items() if name.startswith(part)} <= {"doubt"}
    assert "doubt" not in {sure for name, (_, sure) in found.items() if not name.startswith(part)}


def test_a_member_that_leaves_its_list_as_a_whole_is_not_torn():
    moved = {name.replace("text.blocks.1", "last"): shape for name, shape in blocks("text.", 2).items()}
    sides = (
        {name: torch.empty(shape, device="meta") for name, shape in one.items()} for one in (moved, blocks("text.", 2))
    )
    plan = tg.plan(*sides)
    assert all(step.feeds and "half or more" not in step.why.doubt for step in plan.steps)
