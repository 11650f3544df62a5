"""Position numbers of the file are no matter of course where they count otherwise than 0, 1, 2."""

import pytest
import torch
from torch import nn

import torchgraft as tg


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (torch.arange(6).reshape(1, 6), False),
        (torch.arange(6.0), False),
        (torch.arange(2, 8).reshape(1, 6), True),
        (torch.tensor([[4, 2, 9, 1]]), True),
        (torch.empty(1, 0, dtype=torch.int64), False),
    ],
)
def test_position_numbers_are_told_where_they_say_something(numbers, told):
    model = nn.ModuleDict({"embeddings": nn.Embedding(7, 4), "out": nn.Linear(4, 2)})
    file = {**nn.ModuleDict({"embeddings": nn.Embedding(7, 4), "out": nn.Linear(4, 2)}).state_dict()}
    file["embeddings.position_ids"] = numbers
    report = tg.load(model, file)
    (unused,) = report.plan.unused
    assert unused.quiet is not told
    assert ("doesn't count 0, 1, 2" in str(report)) is told
