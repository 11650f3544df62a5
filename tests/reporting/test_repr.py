"""What a session and a notebook show of a result that is not printed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg

FILE = {"weight": torch.ones(2, 3), "a<b": torch.ones(1)}
RESULTS = {
    "Plan": lambda: tg.plan(nn.Linear(3, 2), FILE),
    "Report": lambda: tg.load(nn.Linear(3, 2), FILE),
    "Inspection": lambda: tg.inspect(FILE),
    "Diff": lambda: tg.diff(FILE, {"weight": torch.ones(2, 3)}),
    "Verification": lambda: tg.verify(nn.Linear(3, 2), nn.Linear(3, 2), torch.ones(1, 3)),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_a_session_shows_one_line_and_a_notebook_the_whole_text(kind: str) -> None:
    made = RESULTS[kind]()
    lines = str(made).splitlines()
    assert repr(made) == f"<{kind}: {lines[0]}; print() shows all of it>"
    shown = made._repr_html_()
    assert shown.startswith("<pre>")
    assert shown.count("\n") == len(lines) - 1
    assert "a<b" not in shown


def test_a_plan_made_by_hand_has_a_repr_and_no_page() -> None:
    plan = tg.Plan(steps=())
    assert repr(plan) == str(plan) == "<Plan without renderers>"
    assert plan._repr_html_() is None
