"""The page of the JSON schemas names every field of every result, and no other."""

import re
from pathlib import Path

import pytest
import torch
from reporting_plans import HELD, changed_head, converted, report

import torchgraft as tg
from torchgraft.core.grounds import Ground
from torchgraft.core.proof import Part
from torchgraft.core.results.report import Mapped
from torchgraft.core.results.verification import (
    KINDS,
    Cause,
    Divergence,
    Hyperparameters,
    OutputComparison,
    SettingDifference,
    Site,
    Verification,
)
from torchgraft.reporting import data_of

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "report-schema.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `torchgraft\.(\w+)/1`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
RULES = "### Rules"
# Objects whose keys are names, settings or fields of operations.
FREE = r".*\bops|policy|metadata|shared|mapped\.owned|.*\.settings|networks\.dtypes|parts"


def verification():
    site = Site(number=0, total=1, name="addmm", module="fc", kind="Linear", settings={"beta": 1})
    output = {"source": "0", "target": "0", "source_shape": (1,), "target_shape": (1,)}
    return Verification(
        outputs=(OutputComparison(**output, greatest=0.0, relative=0.0, passed=True),),
        inputs=1,
        tolerance=1e-4,
        divergence=Divergence(source=site, target=site),
        causes=(Cause(kind="value", text="differs"),),
        settings=(SettingDifference(name="eps", module="", source_module="", target=1, source=2),),
        parts=(Part(module="", source_module="", slots=("fc.weight",), relative=0.0),),
    )


def inspection():
    tg.save("held.safetensors", {"a.weight": torch.full((3, 4), torch.nan), "b.weight": torch.ones(2)})
    return tg.inspect("held.safetensors", verify=True, statistics=True).to_dict()


def difference():
    old = {
        "same": torch.ones(2),
        "gone": torch.ones(2),
        "shape": torch.ones(2),
        "dtype": torch.ones(2),
        "value": torch.ones(2),
    }
    new = {
        "same": old["same"],
        "shape": torch.ones(3),
        "dtype": torch.ones(2).half(),
        "value": torch.zeros(2),
        "new": torch.ones(2),
    }
    return tg.diff(old, new, values=True).to_dict()


def learned():
    def convert(state):
        return {"moved": state["a"].T, "computed": state["a"].sum(0), "text": "no tensor"}

    return tg.learn(convert, {"a": torch.randn(2, 3), "unused": torch.randn(2)}).to_dict()


SAMPLES = {
    "report": lambda: [
        data_of("report", report(converted(), HELD, mapped=Mapped(slots=("a",), nbytes=8))),
        data_of("report", report(changed_head(), HELD)),
    ],
    "verification": lambda: [data_of("verification", verification())],
    "hyperparameters": lambda: [
        data_of("hyperparameters", Hyperparameters(differences=verification().settings, compared=1))
    ],
    "inspection": lambda: [inspection()],
    "diff": lambda: [difference()],
    "saved": lambda: [tg.save("saved.safetensors", {"a": torch.ones(2)}).to_dict()],
    "learned": lambda: [learned(), tg.inverse(changed_head()).to_dict()],
}


def fields(value, path=""):
    """Yield the dotted paths of all fields that are no objects."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from fields(item, path)
    elif isinstance(value, dict) and value and not re.fullmatch(FREE, path):
        for key, item in value.items():
            name = "*" if path == "statistics.tensors" else key
            yield from fields(item, f"{path}.{name}" if path else name)
    else:
        yield path


def documented(section):
    """Yield the patterns of the fields that a section names before its subsections; `.field` stands beside the field before it."""
    for row in re.findall(r"^\| (`.*?) \|", section.partition("\n### ")[0], re.MULTILINE):
        last = ""
        for name in re.findall(r"`([^`]+)`", row):
            last = name if not name.startswith(".") else last
            yield f"{last.rpartition('.')[0]}{name}" if name.startswith(".") else name


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_field_is_documented_and_every_documented_field_is_there(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = {path for data in SAMPLES[kind]() for path in fields(data)}
    patterns = {
        name: re.escape(name).replace(r"\*", r"[\w*]+") for name in documented(SECTIONS[kind].partition(RULES)[0])
    }
    # What is null in one sample is an object in another: its fields are looked for there.
    either = "|".join((*patterns.values(), *(_parent(pattern) for pattern in patterns.values())))
    assert [path for path in sorted(there) if not re.fullmatch(either, path)] == []
    assert [n for n, p in patterns.items() if not any(re.match(rf"{p}(\.|$)", path) for path in there)] == []


def _parent(pattern):
    return pattern.rpartition(r"\.")[0] or pattern


def test_the_kinds_of_causes_are_listed():
    listed = SECTIONS["verification"].partition("A cause is of one of these kinds:")[2]
    assert tuple(re.findall(r"`([^`]+)`", listed)) == KINDS


def test_each_rule_of_a_decision_is_explained():
    rows = SECTIONS["report"].partition(RULES)[2].partition("|---|---|")[2]
    assert sorted(documented(rows)) == sorted(Ground)


def test_there_is_a_section_for_each_kind_of_result():
    assert set(SECTIONS) == set(SAMPLES)
