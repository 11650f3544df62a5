"""Pairs that cross are put in order for little, and in a file sorted by name for next to nothing."""

import numpy as np
import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.parts.units import group
from torchgraft.matching.solving.exchanges import uncrossed
from torchgraft.matching.solving.solve import UNORDERED


def norms(*names):
    return group(
        [
            Leaf(name=f"{name}.weight", shape=(8,), dtype=DType.F32, keys=(name,), order=at)
            for at, name in enumerate(names)
        ]
    )


@pytest.mark.parametrize(("order", "crossed"), [(1.0, False), (UNORDERED, True)])
def test_names_that_say_the_opposite_of_order_count_where_order_is_that_of_the_alphabet(order, crossed):
    sources, targets = norms("layernorm_after", "layernorm_before"), norms("layernorm_before", "layernorm_after")
    scores = np.array([[1.5, 1.7], [1.7, 1.5]])  # by names each goes to its namesake
    pairs = uncrossed([(0, 1), (1, 0)], scores, sources, targets, order)
    assert pairs == ([(0, 1), (1, 0)] if crossed else [(0, 0), (1, 1)])
