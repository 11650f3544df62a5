"""What programs read: valid JSON under the documented schema."""

import json
import re
from pathlib import Path

from hypothesis import given, settings
from reporting_plans import HELD, changed_head, converted, plans, report

from torchgraft.core.results.report import Mapped
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


def _keys(value, prefix=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from _keys(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner, prefix)


def test_the_page_documents_every_field_and_its_example_is_true():
    page = PAGE.read_text(encoding="utf-8").partition("## `torchgraft.inspection/1`")[0]
    example = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    data = report_to_dict(report(changed_head(), HELD))
    example["policy"] = data["policy"]  # its kinds have a page of their own
    assert set(_keys(example)) == set(_keys(data))
    assert {k: v for k, v in data.items() if k not in ("slots", "unused")}.items() <= example.items()
    assert all(slot in data["slots"] for slot in example["slots"])
    assert all(one in data["unused"] for one in example["unused"])
    documented = set(re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE))
    views = Mapped(slots=("a",), nbytes=8)
    there = set(_keys(report_to_dict(report(converted(), HELD, mapped=views)))) | set(_keys(data))
    assert {key for key in there if not key.startswith(("slots.ops.", "slots.feeds.ops.", "policy."))} == documented
