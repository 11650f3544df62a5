"""What programs read: valid JSON under the documented schema."""

import json
from pathlib import Path

from hypothesis import given, settings
from reporting_plans import HELD, converted, plans, report

from torchgraft.reporting.json import plain, plan_to_dict, report_to_dict

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "report-schema.md"


@settings(max_examples=50)
@given(plans())
def test_all_of_a_plan_is_there_and_is_json(made):
    data = json.loads(json.dumps(plan_to_dict(made), allow_nan=False))
    assert data["schema"] == "torchgraft.report/1"
    assert [s["name"] for s in data["slots"]] == [s.slot.name for s in made.steps]
    assert [u["key"] for u in data["unused"]] == [u.spec.name for u in made.unused]
    assert [[f["key"] for f in s["feeds"]] for s in data["slots"]] == [[f.key for f in s.feeds] for s in made.steps]


def test_a_report_adds_checks_and_cost():
    data = report_to_dict(report(converted(), HELD))
    assert data["kind"] == "report"
    assert data["checks"] == [{"name": "values", "passed": True, "text": HELD.text}]
    assert data["cost"]["bytes_read"] == 12_600_000
    assert data["refused"] is True
    assert data["objections"][0]["verdict"] == "refuse"


def test_plain_values():
    assert plain({1: (float("nan"), {2}, None, b"x")}) == {"1": ["nan", [2], None, "b'x'"]}
