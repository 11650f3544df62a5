"""Keys whose numbers are written in another way than the model's are looked up end by end, each respelled once."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.names import ends
from torchgraft.matching.names.undotted import respelled

SEGMENTS = st.sampled_from(["a", "b1", "conv_1", "conv1", "1", "0", "norm.2", "norm_2", "_3", "x_y", "w", "layer_10"])
NAMES = st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join)


def loosened(name):
    return re.sub(r"(?<=[A-Za-z])[._](?=\d+(?:\.|$))", "", name)


@given(key=NAMES, names=st.lists(NAMES, max_size=6, unique=True))
def test_the_longest_end_that_the_model_writes_otherwise_is_respelled(key, names):
    served = any(end in names for end in ends(key))
    found = {}
    for end in () if served else ends(key):
        meant = [name for name in names if loosened(name) == loosened(end)]
        if len(meant) == 1:
            found = {key: key.removesuffix(end) + meant[0]}
            break
    assert respelled([key], names) == found


def test_a_row_that_is_counted_from_another_number_is_not_respelled():
    names = [f"head.linear_c.{n}.proj.weight" for n in range(4)]
    assert respelled([f"head.linear_c{n}.proj.weight" for n in range(1, 5)], names) == {}
    assert respelled([f"head.linear_c{n}.proj.weight" for n in range(1, 4)], names) != {}
