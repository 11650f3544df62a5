"""A head that was added beside a renamed one, and has the old one's name in its own."""

from __future__ import annotations

import pytest
from filling import filled
from torch import nn

import torchgraft as tg


def net(name: str, **heads: nn.Module) -> nn.Module:
    parts = {"embedding": nn.Embedding(9, 5), f"{name}coder": nn.LSTM(5, 8), "attention": nn.Linear(8, 8), **heads}
    return filled(nn.ModuleDict(parts))


@pytest.mark.parametrize(("here", "there"), [(("fc",), ("classifier", "fc_aux")), (("classifier", "fc_aux"), ("fc",))])
def test_a_head_whose_name_says_more_may_be_another_one(here: tuple[str, ...], there: tuple[str, ...]) -> None:
    file, model = (
        net(part, **{name: nn.Linear(8, 9) for name in names}) for part, names in (("en", here), ("de", there))
    )
    with pytest.raises(tg.PlanRefusedError, match="says more than the other"):
        tg.load(model, file.state_dict())


def test_a_longer_name_alone_is_no_reason() -> None:
    plan = tg.load(
        net("en", cls_head=nn.Linear(8, 5), box=nn.Linear(8, 4)), net("en", head=nn.Linear(8, 5)).state_dict()
    ).plan
    assert plan.by_slot["cls_head.weight"].feeds
