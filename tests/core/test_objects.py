import collections

import numpy as np
import pytest
from torch import nn

from torchgraft.core.objects import a_kind, entry_or_attribute


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "an int"),
        (object(), "an object"),
        (collections.OrderedDict(), "an OrderedDict"),
        (np.zeros(1), "an ndarray"),
        (np.uint8(1), "a uint8"),
        (nn.LSTM(1, 1), "an LSTM"),
        (nn.GRU(1, 1), "a GRU"),
        (nn.Linear(1, 1), "a Linear"),
        (nn.Unflatten(0, (1,)), "an Unflatten"),
        (UnicodeError(), "a UnicodeError"),
        (None, "a NoneType"),
        (int, "a class"),
    ],
)
def test_a_kind_has_the_article_that_it_is_spoken_with(given, said):
    assert a_kind(given) == said


def test_an_object_is_asked_by_attributes_and_a_mapping_by_entries():
    assert entry_or_attribute(nn.Linear(3, 1), "in_features") == 3
    assert entry_or_attribute({"in_features": 2}, "in_features") == 2
    assert entry_or_attribute({}, "items") is None
    assert entry_or_attribute(3, "heads") is None
