"""Arguments that say different things of one tensor are refused, and both are named; exceptions to a wider rule are none."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def model():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(6, 4))


def file():
    return {key: torch.rand_like(value) for key, value in model().state_dict().items()}


SWAP = {"2": tg.AxisNames("abcdef", "fedcba")}


@pytest.mark.parametrize(
    ("asked", "first", "second", "place"),
    [
        ({"fresh": ["1"], "zero": ["1.bias"]}, "fresh='1'", "zero='1.bias'", "1.bias"),
        ({"fresh": ["1"], "init": {"1": "identity"}}, "fresh='1'", "init='1'", "1.weight"),
        ({"zero": ["*"], "init": {"1": "identity"}}, "zero='*'", "init='1'", "1.weight"),
        ({"rename": {"0.": "1."}, "fresh": ["1"]}, "rename={'0.': '1.'}", "fresh='1'", "1"),
        ({"fan_out": {"0": ["0", "1"]}, "zero": ["1"]}, "fan_out={'0': '1'}", "zero='1'", "1"),
        ({"copies": {"0": "1"}, "fresh": ["1"]}, "copies={'0': '1'}", "fresh='1'", "1"),
        ({"grow_rows": ["2"], "axis_names": SWAP}, "axis_names='2'", "grow_rows='2'", "2.weight"),
        ({"permute": {"2.*": (0, 1)}, "axis_names": SWAP}, "permute='2.*'", "axis_names='2'", "2.weight"),
    ],
)
def test_both_are_named(asked, first, second, place):
    with pytest.raises(tg.UsageError) as caught:
        tg.plan(model(), file(), **asked)
    text = str(caught.value)
    assert first in text
    assert second in text
    assert f"about {place}:" in text


def test_a_layer_that_is_picked_and_kept_fresh_is_refused():
    net = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(4, 4) for _ in range(3))})
    held = {key: torch.rand_like(value) for key, value in net.state_dict().items()}
    with pytest.raises(tg.UsageError, match=r"layers=.*fresh='blocks.2'.*about blocks\.2"):
        tg.plan(net, held, layers={"blocks": [0, 1, 1]}, fresh=["blocks.2"])


@pytest.mark.parametrize(
    "asked",
    [
        {"rename": {"0.": "1."}, "fresh": ["1.bias"]},
        {"fresh": ["0"], "zero": ["1"]},
        {"fresh": ["1"], "init": {"0": "identity"}},
        {"grow_rows": ["0"], "axis_names": SWAP},
    ],
)
def test_exceptions_and_wishes_for_other_tensors_are_no_contradiction(asked):
    tg.plan(model(), file(), on_doubt="take", **asked)
