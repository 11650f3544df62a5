"""Which tensors of a checkpoint hold what another holds: each is read once for that."""

from collections import Counter

import pytest
import torch

from torchgraft.reading import open_checkpoint
from torchgraft.verifying.values.repeats import find_duplicates, find_repeats


class Counted:
    """A source that counts how often each tensor is read as a whole."""

    def __init__(self, source):
        self.source, self.reads = source, Counter()

    def __getattr__(self, name):
        return getattr(self.source, name)

    def read(self, network, key):
        self.reads[key] += 1
        return self.source.read(network, key)


@pytest.fixture
def counted():
    first = torch.randn(4, 64)
    second = first.clone()
    second[-1, -1] += 1  # begins like the first
    state = {
        "a": first,
        "b": first.clone(),
        "c": second,
        "d": first.clone(),
        "e": second.clone(),
        "f": torch.randn(4, 64),
    }
    return Counted(open_checkpoint(state))


def test_repeats_lead_to_the_first_and_each_tensor_is_read_once(counted):
    specs = list(counted.networks[0].specs.values())
    assert find_repeats(counted, "", specs) == {"b": "a", "d": "a", "e": "c"}
    assert counted.reads == dict.fromkeys("abcde", 1)


def test_duplicates_of_used_tensors_are_read_once(counted):
    specs = counted.networks[0].specs
    used = [specs["a"], specs["f"]]
    assert find_duplicates(counted, "", [specs[name] for name in "bcde"], used) == {"b": "a", "d": "a"}
    assert counted.reads == dict.fromkeys("abcde", 1)
