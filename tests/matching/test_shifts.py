"""A layer put into a row, or taken out of one, anywhere: what is loaded is right, or the plan is in doubt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

# A layer of so many channels in and out, with a kernel of this size.
Layer = tuple[int, int, int]


def norm_behind(a: int, b: int, k: int) -> list[nn.Module]:
    return [nn.Conv2d(a, b, k), nn.BatchNorm2d(b), nn.ReLU()]


def norm_before(a: int, b: int, k: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, k)]


def with_slopes(a: int, b: int, k: int) -> list[nn.Module]:
    return [nn.Conv2d(a, b, k), nn.BatchNorm2d(b), nn.PReLU(b)]


def bare(a: int, b: int, k: int) -> list[nn.Module]:
    return [nn.Conv2d(a, b, k)]


def block(a: int, b: int, k: int) -> list[nn.Module]:
    return [nn.ModuleDict({"first": nn.Conv2d(a, b, k), "norm": nn.BatchNorm2d(b), "last": nn.Conv2d(b, b, 1)})]


STYLES = {f.__name__: f for f in (norm_behind, norm_before, with_slopes, bare, block)}


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[Layer], int, Layer]:
    """Return a row of layers, and a layer of equal width to put in at a place."""
    widths = [3, *draw(st.lists(st.sampled_from([8, 8, 16]), min_size=2, max_size=6))]
    kernels = st.sampled_from([1, 3])
    layers = [(a, b, draw(kernels)) for a, b in pairwise(widths)]
    place = draw(st.integers(1, len(layers)))
    return layers, place, (widths[place], widths[place], draw(kernels))


def built(style: str, layers: list[Layer], classes: int = 5) -> tuple[nn.Sequential, list[list[int]]]:
    """Return the row with a last layer behind it, and the numbers that each layer has in it."""
    parts: list[nn.Module] = []
    numbers = []
    for layer in layers:
        new = STYLES[style](*layer)
        numbers.append(list(range(len(parts), len(parts) + len(new))))
        parts += new
    return nn.Sequential(*parts, nn.Linear(layers[-1][1], classes)), [*numbers, [len(parts)]]


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows(), st.booleans(), st.sampled_from([5, 7]), st.sampled_from([3, 4]))
def test_no_layer_is_taken_for_its_neighbour_without_doubt(style, row, taken_out, classes, channels):
    layers, place, new = row
    short, few = built(style, layers)
    long, many = built(style, [(channels, *layers[0][1:]), *layers[1:place], new, *layers[place:]], classes)
    kept = [*many[:place], *many[place + 1 :]]
    right = {str(b): str(a) for ours, theirs in zip(few, kept, strict=True) for a, b in zip(ours, theirs, strict=True)}
    source, target = (long, short) if taken_out else (short, long)
    if taken_out:
        right = {a: b for b, a in right.items()}
    plan = tg.plan(target, source.state_dict())
    wrong = [
        step.slot.name
        for step in plan.steps
        if step.feeds
        and step.certainty is not Certainty.DOUBT
        and right.get(step.slot.name.partition(".")[0]) != step.feeds[0].key.partition(".")[0]
    ]
    assert not wrong


def test_between_layers_of_other_widths_the_one_put_in_is_known():
    source, _ = built("norm_behind", [(3, 8, 3), (8, 16, 3), (16, 32, 3)])
    target, _ = built("norm_behind", [(3, 8, 3), (8, 16, 3), (16, 16, 1), (16, 32, 3)])
    plan = tg.plan(target, source.state_dict())
    assert not plan.doubtful
    assert {s.slot.name.partition(".")[0] for s in plan.fresh} == {"6", "7"}
