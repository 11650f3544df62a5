"""The assignment taken alone from scipy is scipy's own."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from torchgraft.matching.solving.algorithms import _alone, _imported, assign

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**16))


@given(sizes)
def test_equals_the_package(size):
    scores = np.random.default_rng(size[2]).integers(0, 4, size[:2]).astype(np.float32)
    expected = linear_sum_assignment(scores, maximize=True)
    for found in (assign(scores), _imported()(scores, maximize=True)):
        assert np.array_equal(found, expected)


def test_the_small_module_is_found():
    assert _alone() is not None
