"""What is alone in a block of many, and goes with something outside of all blocks, is paired by its name or not at all."""

import numpy as np
import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.parts.units import group
from torchgraft.matching.solving.solve import without_isolated


def units(*paths):
    return group([Leaf(name=f"{p}.weight", shape=(4, 4), dtype=DType.F32, keys=(f"{p}.weight",)) for p in paths])


OUTSIDE = units("extra")
BLOCKS = units(*(f"layers.{n}.{part}" for n in range(2) for part in ("q", "k", "v")))


@pytest.mark.parametrize(("likeness", "kept"), [(0.0, False), (0.14, False), (0.15, True), (0.9, True)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_part_of_a_block_that_stays_free_goes_with_nothing_outside_unless_names_say_so(likeness, kept, turned):
    pairs = [(0, 3)] if not turned else [(3, 0)]
    sides = (OUTSIDE, BLOCKS) if not turned else (BLOCKS, OUTSIDE)
    names = np.full((len(sides[0]), len(sides[1])), likeness)
    assert without_isolated(pairs, names, *sides) == (pairs if kept else [])


def test_a_part_whose_neighbours_are_paired_too_is_no_stray():
    outside = units("one", "other")
    pairs = [(0, 3), (1, 4)]
    assert without_isolated(pairs, np.zeros((2, len(BLOCKS))), outside, BLOCKS) == pairs


def test_the_whole_of_a_small_block_is_no_stray():
    small = units("layers.0.q", "layers.1.q")
    assert without_isolated([(0, 1)], np.zeros((1, 2)), OUTSIDE, small) == [(0, 1)]
