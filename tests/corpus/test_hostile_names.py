"""Names out of strange files can't act on who reads of them: terminals, web pages and JSON get them escaped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from corpus_tools import state, tensor, torch_zip
from corpus_torch import HOSTILE

import torchgraft as tg

LONGEST_LINE = 2000


@pytest.fixture(params=HOSTILE)
def file(request, tmp_path):
    key = HOSTILE[request.param]
    path = tmp_path / "m.pt"
    path.write_bytes(torch_zip(state(**{key: tensor(), f"{key}2": tensor(), "fc.weight": tensor()})))
    return path


@pytest.fixture
def model():
    return nn.ModuleDict({"fc": nn.Linear(3, 2, bias=False), "head": nn.Linear(3, 2)})


def fit_for_a_terminal(text):
    return all(line.isprintable() and len(line) <= LONGEST_LINE for line in text.split("\n"))


def test_texts_hold_no_control_characters(file, model):
    plan = tg.plan(model, file)
    for shown in (tg.inspect(file), plan, tg.diff(file, model)):
        assert fit_for_a_terminal(str(shown))
    assert all(fit_for_a_terminal(warning.text) for warning in plan.warnings)
    with pytest.raises(tg.PlanRefusedError) as refused:
        tg.load(model, file, strict=True)
    assert fit_for_a_terminal(str(refused.value))


def test_pages_hold_names_as_text(file, model):
    page = tg.plan(model, file).to_html()
    assert "<img" not in page
    assert all(c.isprintable() or c == "\n" for c in page)


def test_json_holds_names_exactly(file, model):
    said = json.loads(json.dumps(tg.plan(model, file).to_dict()))
    names = {entry["key"] for entry in said["unused"]} | {f["key"] for slot in said["slots"] for f in slot["feeds"]}
    plan = tg.plan(model, file)
    assert names == {u.spec.name for u in plan.unused} | {f.key for s in plan.steps for f in s.feeds}


ENDLESS = {"dots": "." * 60_000, "slashes": "/" * 60_000, "layers": "layers.0." * 7000, "digits": "1" * 60_000}


@pytest.mark.parametrize("key", ENDLESS.values(), ids=ENDLESS)
def test_names_that_take_hours_to_compare_are_refused(key, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(torch_zip(state(**{key: tensor(), f"{key}.weight": tensor(), "fc.weight": tensor()})))
    with pytest.raises(tg.LimitExceededError, match=r"has a name with .* which no model gives"):
        tg.inspect(path)


def test_names_of_hundreds_of_parts_are_compared(tmp_path, model):
    path = tmp_path / "m.pt"
    path.write_bytes(torch_zip(state(**{"a.1." * 200 + "w": tensor(), "9" * 900: tensor(), "fc.weight": tensor()})))
    assert tg.plan(model, path).by_name["fc.weight"].feeds[0].key == "fc.weight"
