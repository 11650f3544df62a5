"""Whatever is given to a keyword: a result, or a UsageError that names it; never another exception."""

import inspect
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.arguments import Arguments

ODD = (
    None, True, 0, 1, -1, 10**30, 1.5, math.nan, math.inf, Fraction(1, 2), "", "0", "x", "\x1b", b"x", Path("nowhere"), [], [0], [1, 0],
    ["0"], [[]], [["x", "y"]], [("a", "b")], [None], [nn.ReLU()], (), (1, 0), range(2), set(), {"0"}, {}, {"0": 0}, {"0": None},
    {"0": True}, {"0": 1.5}, {"0": ""}, {"0": "x"}, {"0": b"x"}, {"0": []}, {"0": [0]}, {"0": [[]]}, {"0": ["x"]}, {"0": {}}, {"0": {"0"}},
    {"0": {"x": 0}}, {"0": object()}, {"0": nn.Linear}, {"0": torch.ones(2)}, {"0": ((1, 1), (1, 1))}, {"0": (1, 0)},
    {0: "x"}, {0: 0}, {None: []}, {("0",): "fresh"}, {b"0": "x"}, {"source": ["a"], "target": ["b"]},
    {"source": 1, "target": None}, {"source": [[]], "target": [{}]}, {"source": {"a": "x"}, "target": {"a": 0}}, object(), object,
    nn.Linear, nn.ReLU(), lambda: None, len, torch.ones(()), torch.ones(2), torch.float32, torch.device("cpu"), np.ones(2), np.float32(2),
    iter("0"), tg.Policy(), tg.Verdict.WARN, tg.AxisNames(["a"], ["a"]), 1j, slice(0), NotImplemented, ..., Exception("x"),
)  # fmt: skip
OF_LOAD_ALONE = tuple(
    one.name for one in inspect.signature(tg.load).parameters.values() if one.kind is one.KEYWORD_ONLY
)


def net():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


SAVED = net().state_dict()


def expect_sense(name, value, call):
    """Expect a result or an error of the library that says what is wrong; no other comes out of the middle of the work."""
    try:
        call()
    except tg.TorchgraftError as error:
        assert not isinstance(error, tg.ApplyError) or name == "progress", f"{name}={value!r}: {error}"  # noqa: PT017
    except Exception as error:
        raise AssertionError(f"{name}={value!r}: {type(error).__name__}: {error}") from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", Arguments.__annotations__)
def test_plan_refuses_what_makes_no_sense(name):
    for value in ODD:
        expect_sense(name, value, lambda value=value: tg.plan(net(), SAVED, **{name: value}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OF_LOAD_ALONE)
def test_load_does(name):
    for value in ODD:
        expect_sense(name, value, lambda value=value: tg.load(net(), SAVED, **{name: value}))


@pytest.mark.parametrize("name", ["source", "target", "dim", "each", "new"])
def test_names_of_axes_do(name):
    for value in ODD:
        given = {"source": ["a", "b"], "target": ["a", "b"], name: value}
        expect_sense(name, value, lambda given=given: tg.plan(net(), SAVED, axis_names={"1": tg.AxisNames(**given)}))


@pytest.mark.parametrize("name", ["class_names", "class_rows"])
def test_names_of_classes_do(name):
    for value in ODD:
        given = {"class_names": {"source": ["a", "b"], "target": ["a", "b"]}, "class_rows": {"1": 1}, name: value}
        expect_sense(name, value, lambda given=given: tg.plan(net(), SAVED, **given))


@pytest.mark.parametrize("name", ["what", "patterns", "modules", "partly", "dropout"])
def test_freezing_does(name):
    for value in ODD:
        model = net()
        report = tg.load(model, SAVED)
        expect_sense(name, value, lambda m=model, r=report, v=value: tg.freeze(m, r, **{name: v}))
