"""Each decision can be traced to the rule that made it: in its reason, in JSON, in a kept plan and in the log."""

import ast
import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.matching import doubts, reviewing
from torchgraft.matching.judging.reasons import Rule
from torchgraft.matching.names.words import read_alike

SOURCES = Path(tg.__file__).parent


class Ours(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(8, 8), "out_proj": nn.Linear(8, 8)})
        self.ffn = nn.ModuleDict({"fc1": nn.Linear(8, 24), "fc2": nn.Linear(24, 8)})


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({"query": nn.Linear(8, 8), "to_out": nn.Linear(8, 8)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(8, 24), "fc2": nn.Linear(24, 8)})


def test_a_name_of_another_library_tells_the_entries_of_the_dialect_by_which_it_was_read():
    made = tg.plan(Theirs(), Ours().state_dict())
    evidence = made.by_slot["attention.query.weight"].why.evidence
    assert {"dialect: 'self attn' and 'attention' mean 'attn'", "dialect: 'q proj' and 'query' mean 'q'"} <= {*evidence}
    assert "same name, with 'ffn.' read as 'mlp.'" in made.by_slot["mlp.fc1.bias"].why.evidence
    assert all("dialect" not in line for line in str(made).splitlines())


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ("layers.0.bn1", "layers.0.bn1", ()),
        ("h.3.ln_1", "blocks.3.ln_1", ("dialect: 'h' and 'blocks' mean 'block'",)),
        ("enc.fc", "encoder.lin", ("dialect: 'enc' means 'encoder'",)),
        ("enc.fc", "dec.fc", ()),
    ],
)
def test_entries_are_told_that_give_both_names_a_word_in_common(ours, theirs, told):
    assert read_alike(ours, theirs) == told


def test_a_doubt_names_its_rule_in_the_plan_in_json_and_in_a_kept_plan(tmp_path):
    model = nn.ModuleDict({"old": nn.Linear(4, 4), "new": nn.Linear(4, 4)})
    made = tg.plan(model, {"a.weight": torch.randn(4, 4), "a.bias": torch.randn(4)})
    step = made.doubtful[0]
    assert step.why.doubted_by
    assert f"(rule: {step.why.doubted_by})" in str(step.why)
    [said] = [slot["why"] for slot in made.to_dict()["slots"] if slot["name"] == step.slot.name]
    assert (said["doubted_by"], said["doubt"]) == (step.why.doubted_by, step.why.doubt)
    kept = tmp_path / "plan.json"
    kept.write_text(json.dumps(made.to_dict()))
    assert tg.read_plan(kept).by_slot[step.slot.name].why == step.why


def test_rules_of_doubt_have_names_of_their_own():
    rules = [rule.name for rule in (*doubts.RULES, *reviewing.RULES)]
    made = [
        node.args[0].value
        for path in SOURCES.rglob("*.py")
        if "Doubt(" in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Doubt"
        if node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value
    ]
    names = [*rules, *made]
    assert len(names) == len({*names})
    assert len(made) > 10


def test_what_a_rule_sees_of_whole_modules_is_told_in_place_of_an_earlier_doubt(monkeypatch):
    def everything(finished):
        return {m.target.name: "first" for m in finished.matching.matches}

    def again(finished):
        return {m.target.name: "second" for m in finished.matching.matches}

    monkeypatch.setattr(reviewing, "RULES", (Rule(everything), Rule(again)))
    model = nn.ModuleDict({"old": nn.Linear(4, 4), "new": nn.Linear(4, 4)})
    made = tg.plan(model, {"a.weight": torch.randn(4, 4), "a.bias": torch.randn(4)})
    assert {(step.why.doubt, step.why.doubted_by) for step in made.doubtful} == {("first", "everything")}


def test_the_log_tells_which_ways_of_matching_were_tried(caplog):
    tied = nn.Embedding(16, 8)
    file = {"tok.weight": tied.weight, "lm.weight": tied.weight, "fc.weight": torch.randn(8, 8)}
    model = nn.ModuleDict(
        {"tok": nn.Embedding(16, 8), "out": nn.Linear(8, 16, bias=False), "fc": nn.Linear(8, 8, bias=False)}
    )
    with caplog.at_level(logging.DEBUG, logger="torchgraft"):
        tg.plan(model, file)
    told = [record.getMessage() for record in caplog.records if record.name == "torchgraft"]
    assert any("matched by" in text for text in told)
    assert any("second names" in text for text in told)
