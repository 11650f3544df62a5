"""Errors come back whole from a process of a pool: one that can't be unpickled there takes the pool with it."""

import pickle

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core import errors

PLAIN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.TorchgraftError)
    and not issubclass(kind, errors.PlanRefusedError)
]


def same(error):
    again = pickle.loads(pickle.dumps(error))
    return type(again) is type(error) and str(again) == str(error)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_errors(kind):
    assert same(kind("tensor a: [2, 3] in the file, [2, 4] in the model" * 20))


def test_a_refusal_keeps_its_objections():
    with pytest.raises(tg.PlanRefusedError) as caught:
        tg.load(nn.Linear(3, 2), {"weight": torch.ones(2, 3), "extra": torch.ones(1)}, strict=True)
    assert same(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).objections == caught.value.objections


def test_a_header_stays():
    assert same(errors.UninitialisedError((), "two lines\nof header"))
