"""A table grows at its end where the caller says so; it never shrinks, and nothing else of it may differ."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def table(rows, width=4):
    return nn.ModuleDict({"embed": nn.Embedding(rows, width), "head": nn.Linear(4, 4)})


@pytest.mark.parametrize(("new", "filled"), [("fresh", None), ("zero", 0.0), ("mean", "mean")])
def test_old_rows_keep_their_numbers_and_new_ones_start_as_asked(new, filled):
    file, model = table(5), table(7)
    before = model["embed"].weight.detach().clone()
    report = tg.load(model, file, grow_rows={"embed": new})
    old, got = file["embed"].weight, model["embed"].weight
    assert torch.equal(got[:5], old)
    wanted = {None: before[5:], 0.0: torch.zeros(2, 4), "mean": old.mean(0).expand(2, 4)}[filled]
    assert torch.allclose(got[5:], wanted)
    assert tg.loaded_masks(model, report)["embed.weight"][:, 0].tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize(("old", "new"), [((7, 4), (5, 4)), ((5, 3), (7, 4))])
def test_a_table_that_shrinks_or_changes_its_width_stays_fresh(old, new):
    model = table(*new)
    before = model["embed"].weight.detach().clone()
    report = tg.load(model, table(*old), grow_rows=["embed"])
    assert [step.slot.name for step in report.plan.fresh] == ["embed.weight"]
    assert torch.equal(model["embed"].weight, before)
    assert ("grow_rows= cuts none" in report.plan.fresh[0].why.text) is (new == (5, 4))
