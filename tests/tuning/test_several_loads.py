"""One model filled by several loads: what became of each tensor follows from all of them, in their order."""

import pytest
import torch
from torch import nn
from tuning_models import step

import torchgraft as tg
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Feed, Plan, Rows, Step, Why
from torchgraft.surveying import survey
from torchgraft.tuning.fates import Fate, tensor_fates


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)
        self.new = nn.Linear(4, 5)


@pytest.fixture
def loaded():
    model, backbone, head = Detector(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)
    return model, tg.load(model, backbone, rename={"": "backbone."}), tg.load(model, head, rename={"": "head."})


def test_what_either_load_filled_is_frozen(loaded):
    model, *reports = loaded
    frozen = tg.freeze(model, reports)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["new.weight", "new.bias"]
    assert frozen.modules == ("backbone.1",)
    with pytest.raises(UsageError, match="report is a str"):
        tg.freeze(model, [reports[0], "report"])


def test_groups_and_masks_know_all_loads(loaded):
    model, *reports = loaded
    groups = {g["name"]: g["names"] for g in tg.param_groups(model, reports, lr=0.1)}
    assert groups["fresh"] == ["new.weight", "new.bias"]
    assert {n for n, mask in tg.loaded_masks(model, reports).items() if not mask.all()} == {"new.weight", "new.bias"}


def test_each_report_has_to_be_of_this_model(loaded):
    model, report, _ = loaded
    other = nn.Sequential(nn.Linear(7, 7))
    with pytest.raises(UsageError, match="another model"):
        tg.param_groups(model, [report, tg.load(other, other.state_dict())], lr=0.1)


def rows(slot, *indices, dim=0, made=None):
    return Step(slot=slot, feeds=(Feed("old"),), rows=Rows(dim, indices), made=made, why=Why("test", "rows"))


def whole(kind):
    return lambda slot: step(slot, kind)


@pytest.mark.parametrize(
    ("first", "second", "fate", "known"),
    [
        (whole("loaded"), whole("fresh"), Fate.LOADED, None),
        (whole("loaded"), whole("constant"), Fate.CONSTANT, None),
        (whole("constant"), whole("adapted"), Fate.ADAPTED, None),
        (whole("loaded"), lambda s: rows(s, 1), Fate.LOADED, None),
        (whole("constant"), lambda s: rows(s, 1), Fate.PARTLY, (1,)),
        (lambda s: rows(s, 0, 2), lambda s: rows(s, 1), Fate.PARTLY, (0, 1, 2)),
        (lambda s: rows(s, 0, 2), lambda s: rows(s, 3, 1), Fate.LOADED, None),
        (lambda s: rows(s, 0, 2), whole("loaded"), Fate.LOADED, None),
        (whole("loaded"), lambda s: rows(s, 1, 2, made=Rows(0, (2,))), Fate.PARTLY, (0, 1, 3)),
        (lambda s: rows(s, 2), lambda s: rows(s, 2, made=Rows(0, (2,))), Fate.FRESH, None),
    ],
)
def test_a_later_load_changes_what_it_wrote(first, second, fate, known):
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(4, 2))
    (slot,) = survey(model).slots
    found = tensor_fates(model, [Plan(steps=(made(slot),)) for made in (first, second)]).tensors[0]
    assert (found.fate, found.known and found.known.indices) == (fate, known)


def test_parts_along_two_dimensions_are_refused():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(4, 2))
    (slot,) = survey(model).slots
    plans = [Plan(steps=(rows(slot, 1),)), Plan(steps=(rows(slot, 1, dim=1),))]
    with pytest.raises(UsageError, match="along dimension 0 by one load, and along 1"):
        tensor_fates(model, plans)


def test_no_load_leaves_all_fresh():
    model = Detector()
    assert {t.fate for t in tensor_fates(model, ()).tensors} == {Fate.FRESH}
    with pytest.raises(UsageError, match="report is a NoneType"):
        tg.param_groups(model, None, lr=0.1)
