"""A tensor that is spread by a torch which doesn't tell which part of it is here."""

import pytest

import torchgraft as tg
from torchgraft.spreading.share import box_of


class Spread:
    """Looks as a DTensor of torch 2.4 does."""

    shape, placements, device_mesh = (4, 2), (), object()

    def to_local(self):
        raise AssertionError("nothing is read")


def test_is_refused_and_not_taken_for_the_whole():
    with pytest.raises(tg.UsageError, match=r"fc\.weight is spread over processes, .* take a newer torch"):
        box_of(Spread(), "fc.weight")
