"""Several layers beside each other that are one on the other side: a joined head for classes, boxes and points."""

import pytest
import torch
from torch import nn

import torchgraft as tg

SIZES = (2, 4, 10)


class Detector(nn.Module):
    """A body, and heads under the given names and sizes."""

    def __init__(self, heads, sizes, *, width=8, bias=True):
        super().__init__()
        self.body = nn.Linear(3, width)
        for name, size in zip(heads, sizes, strict=True):
            self.add_module(name, nn.Linear(width, size, bias=bias))


def several(**kwargs):
    return Detector(("head_1", "head_2", "head_3"), SIZES, **kwargs)


def one(**kwargs):
    return Detector(("heads",), (sum(SIZES),), **kwargs)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_add_up_are_joined_by_number_and_in_doubt(bias):
    source, target = several(bias=bias), one(bias=bias)
    before = target.heads.weight.clone()
    with pytest.raises(tg.PlanRefusedError, match="in which order they stand"):
        tg.load(target, source.state_dict())
    assert torch.equal(target.heads.weight, before)
    tg.load(target, source.state_dict(), on_doubt="take")
    joined = torch.cat([getattr(source, f"head_{n}").weight for n in (1, 2, 3)])
    assert torch.equal(target.heads.weight, joined)
    assert torch.equal(target.body.weight, source.body.weight)


def test_numbers_count_and_not_the_order_in_the_file():
    source, target = several(), one()
    tg.load(target, dict(reversed(source.state_dict().items())), on_doubt="take")
    assert torch.equal(target.heads.bias, torch.cat([getattr(source, f"head_{n}").bias for n in (1, 2, 3)]))


def test_one_layer_is_cut_into_those_that_add_up_to_it():
    source, target = one(), several()
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    parts = source.heads.weight.split(SIZES)
    assert all(torch.equal(getattr(target, f"head_{n}").weight, part) for n, part in enumerate(parts, 1))
    assert len(plan.doubtful) == 6
    assert not plan.unused


@pytest.mark.parametrize(
    ("heads", "sizes", "target"),
    [
        (("head_1", "head_2"), (2, 4), one()),
        (("head_1", "head_2", "head_3"), (2, 4, 10), Detector(("heads", "others"), (16, 16))),
        (("head_1", "head_2", "box_1", "box_2"), (2, 14, 6, 10), one()),
    ],
    ids=["a part is missing", "two layers that it could be", "two rows of layers that add up"],
)
def test_what_has_no_single_reading_stays_fresh(heads, sizes, target):
    source = Detector(heads, sizes)
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    assert {s.slot.name for s in plan.fresh} == set(target.state_dict()) - {"body.weight", "body.bias"}


def test_layers_of_other_inputs_are_no_parts():
    source, target = several(), nn.ModuleDict({"body": nn.Linear(3, 8), "heads": nn.Linear(9, 16)})
    assert {s.slot.name for s in tg.plan(target, source.state_dict()).fresh} == {"heads.weight", "heads.bias"}
