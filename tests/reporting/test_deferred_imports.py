"""What shows a result is imported when it is shown."""

from __future__ import annotations

import subprocess
import sys

from torch import nn

import torchgraft
from torchgraft import reporting

LOAD_AND_LIST = """
import sys, torch, torchgraft
model = torch.nn.Linear(2, 3)
report = torchgraft.load(model, {name: value.clone() for name, value in model.state_dict().items()})
shown = [f"torchgraft.reporting.{name}" for name in ("text", "json", "html", "plan_sections", "checkpoint_views")]
assert not sys.modules.keys() & {*shown, "torchgraft.planfile", "torchgraft.diffing"}, sys.modules.keys()
str(report)
assert "torchgraft.reporting.text" in sys.modules
"""


def test_load_imports_nothing_that_only_shows() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD_AND_LIST], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plans_and_reports_show_themselves_as_the_functions_do() -> None:
    model = nn.Linear(2, 3)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plan, report = torchgraft.plan(model, state), torchgraft.load(model, state)
    assert str(plan) == reporting.text_of("plan", plan)
    assert plan.to_dict() == reporting.data_of("plan", plan)
    assert plan.to_html() == reporting.page_of("plan", plan)
    assert str(report) == reporting.text_of("report", report)
    assert report.to_dict() == reporting.data_of("report", report)
    assert report.to_html() == reporting.page_of("report", report)
