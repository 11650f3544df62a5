"""A plan that is kept in a file and read back does the same, and nothing to a model or a file that it was not made for."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from law_models import Net, copied, filled, settings_of_nets, unchanged
from torch import nn

import torchgraft as tg

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@few
@given(settings_of_nets, settings_of_nets, st.integers(0, 2**16))
def test_a_plan_read_back_does_the_same(tmp_path_factory, shape, other, seed):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    source = filled(Net(**shape), seed).state_dict()
    one, two, three = (filled(Net(**other), seed + 1) for _ in range(3))
    before = copied(one.state_dict())
    made = tg.plan(one, source, on_doubt="take")
    tg.save_plan(path, made)
    read = tg.read_plan(path)
    assert read.to_dict() == made.to_dict()
    assert str(read).splitlines()[0] == str(made).splitlines()[0]
    if made.refusals:
        with pytest.raises(tg.PlanRefusedError) as refused:
            tg.load(one, source, plan=path)
        assert {o.text for o in refused.value.objections} == {o.text for o in made.refusals}
        assert unchanged(one, before)
        return
    tg.load(one, source, on_doubt="take")
    report = tg.load(two, source, plan=path)
    tg.load(three, source, plan=made)
    assert unchanged(two, one.state_dict())
    assert unchanged(three, one.state_dict())
    assert all(check.passed for check in report.checks)
    assert report.to_dict()["slots"] == made.to_dict()["slots"]


class Mixed(nn.Module):
    """What takes every kind of step: fused, transposed, resized, grown, tied, fresh."""

    def __init__(self, classes, *, fused):
        super().__init__()
        self.table = nn.Embedding(classes + 4, 8)
        if fused:
            self.qkv = nn.Linear(8, 24)
        else:
            self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.conv = nn.Conv2d(3 if fused else 1, 4, 3)
        self.register_buffer("steps", torch.tensor(3))
        self.head = nn.Linear(8, classes + 4, bias=False)
        self.head.weight = self.table.weight


def mixed():
    source, target = Mixed(5, fused=True), Mixed(7, fused=False)
    asked = {"grow_rows": ["table.weight"], "in_channels": {"conv.weight": "sum"}}
    return source.state_dict(), target, asked


def test_steps_of_every_kind_come_back(tmp_path):
    source, target, asked = mixed()
    other = Mixed(7, fused=False)
    other.load_state_dict(target.state_dict())
    made = tg.plan(target, source, **asked)
    assert {type(op).__name__ for s in made.steps for op in (*s.ops, *(o for f in s.feeds for o in f.ops))}
    tg.save_plan(tmp_path / "plan.json", made)
    assert tg.read_plan(tmp_path / "plan.json").to_dict() == made.to_dict()
    tg.load(target, source, **asked)
    tg.load(other, source, plan=tmp_path / "plan.json")
    assert unchanged(other, target.state_dict())


def changed(source, **new):
    return {**source, **new}


@pytest.mark.parametrize(
    ("source", "model", "text"),
    [
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3)}, nn.Linear(3, 3), "another model: weight is [3, 3] float32 here"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3)}, nn.Linear(2, 3).half(), "weight is [3, 2] float16 here and"),
        ({"weight": torch.ones(3, 2)}, nn.Linear(2, 3), "another checkpoint: bias is not there here and [3] float32 in the"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3), "more": torch.ones(1)}, nn.Linear(2, 3), "more is [1] float32"),
        ({"m": {"weight": torch.ones(3, 2), "bias": torch.ones(3)}}, nn.Linear(2, 3), "for network '', which <dict> lacks"),
    ],
)  # fmt: skip
def test_another_model_or_file_is_refused_and_the_difference_named(tmp_path, source, model, text):
    tg.save_plan(tmp_path / "p.json", tg.plan(nn.Linear(2, 3), {"weight": torch.ones(3, 2), "bias": torch.ones(3)}))
    before = copied(model.state_dict())
    with pytest.raises(tg.UsageError) as refused:
        tg.load(model, source, plan=tmp_path / "p.json")
    assert text in str(refused.value)
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (
            lambda plan: plan["slots"][1]["feeds"].clear(),
            'give the tensor a slot that it feeds, or an entry in "unused"',
        ),
        (lambda plan: plan["slots"].pop(1), 'give the tensor an entry in "slots"'),
    ],
)
def test_a_tensor_that_lost_its_place_by_hand_is_told_so(tmp_path, edit, text):
    state = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    model = nn.Linear(2, 3)
    plan = tg.plan(model, state).to_dict()
    edit(plan)
    if len(plan["slots"]) < 2:
        plan["unused"].append({**plan["slots"][0]["feeds"][0], "key": "bias", "shape": [3], "numel": 3, "quiet": False,
                               "similar": [], "same_as": "", "why": plan["slots"][0]["why"]})  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(plan))
    with pytest.raises(tg.UsageError, match=r"bias is .* not there in the plan") as refused:
        tg.load(model, state, plan=tmp_path / "p.json")
    assert text in str(refused.value)


def test_other_ties_are_refused(tmp_path):
    source, target, asked = mixed()
    tg.save_plan(tmp_path / "p.json", tg.plan(target, source, **asked))
    target.head.weight = nn.Parameter(target.table.weight.detach().clone())
    with pytest.raises(tg.UsageError, match=r"head\.weight is"):
        tg.load(target, source, plan=tmp_path / "p.json")


def test_a_plan_holds_all_decisions(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    tg.save_plan(tmp_path / "p.json", tg.plan(nn.Linear(2, 3), state))
    with pytest.raises(tg.UsageError, match="plan= holds all decisions: rename=, strict= can't be given beside it"):
        tg.load(nn.Linear(2, 3), state, plan=tmp_path / "p.json", strict=True, rename={"a": "b"})


def test_values_are_looked_at_as_ever(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    tg.save_plan(tmp_path / "p.json", tg.plan(nn.Linear(2, 3), state))
    state["weight"][0, 0] = float("nan")
    with pytest.raises(tg.PlanRefusedError, match="NaN"):
        tg.load(nn.Linear(2, 3), state, plan=tmp_path / "p.json")


@pytest.mark.parametrize("kept", [True, False])
def test_a_policy_beside_a_plan_is_for_what_values_show(tmp_path, kept):
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    plan = tg.plan(nn.Linear(2, 3), state)
    if kept:
        tg.save_plan(tmp_path / "p.json", plan)
    state["weight"][0, 0] = float("nan")
    model = nn.Linear(2, 3)
    accepting = tg.Policy(nonfinite=tg.Verdict.ACCEPT)
    tg.load(model, state, plan=tmp_path / "p.json" if kept else plan, policy=accepting)
    assert torch.equal(model.weight.nan_to_num(), state["weight"].nan_to_num())
    assert torch.equal(model.bias, state["bias"])


def test_a_policy_beside_a_plan_overrules_no_decision():
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    refused = tg.plan(nn.Linear(2, 3), {"weight": state["weight"]}, strict=True)
    model = nn.Linear(2, 3)
    before = copied(model.state_dict())
    with pytest.raises(
        tg.UsageError, match=r"for what values show .* and says doubt, too; plan again with this policy"
    ):
        tg.load(model, state, plan=tg.plan(nn.Linear(2, 3), state), policy=tg.Policy(doubt=tg.Verdict.WARN))
    for policy in (tg.Policy(), tg.Policy(nonfinite=tg.Verdict.ACCEPT)):
        with pytest.raises(tg.PlanRefusedError, match="bias"):
            tg.load(model, {"weight": state["weight"]}, plan=refused, policy=policy)
    assert unchanged(model, before)


def test_a_cast_that_loses_values_is_refused_unless_it_is_accepted_beside_the_plan():
    state = {"weight": torch.full((3, 2), 1e30), "bias": torch.ones(3)}
    plan = tg.plan(nn.Linear(2, 3).half(), state)
    for policy in (None, tg.Policy(nonfinite=tg.Verdict.ACCEPT)):
        with pytest.raises(tg.PlanRefusedError):
            tg.load(nn.Linear(2, 3).half(), state, plan=plan, policy=policy)
    tg.load(
        nn.Linear(2, 3).half(), state, plan=plan, policy=tg.Policy(lossy=tg.Verdict.ACCEPT, nonfinite=tg.Verdict.ACCEPT)
    )


def broken(path, *keys):
    """Return a change of the plan's data: the last of `keys` is the new value."""

    def change(data):
        *way, last, value = (path, *keys)
        for key in way:
            data = data[key]
        if value is KeyError:
            del data[last]
        else:
            data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (broken("schema", "x"), "is no plan: expected the JSON of `torchgraft plan`"),
        (broken("policy", KeyError), "is no plan"),
        (broken("slots", KeyError), "broken plan: KeyError: 'slots'"),
        (broken("slots", 0, "shape", [-1]), "weight has the shape"),
        (broken("slots", 0, "dtype", "float9"), "broken plan: KeyError: 'float9'"),
        (broken("slots", 0, "certainty", "sure"), "'sure' is not a valid Certainty"),
        (broken("slots", 0, "rows", {"dim": 5, "indices": [0]}), "weight has no dimension 5"),
        (broken("slots", 0, "rows", {"dim": 0, "indices": [0, 3]}), "weight: rows outside its 3, or twice"),
        (broken("slots", 0, "ops", [{"op": "system"}]), "broken plan"),
        (broken("slots", 0, "feeds", 0, "key", 3), "a text is expected, not 3"),
        (broken("slots", 0, "feeds", 0, "key", "x"), "is not there"),
        (broken("slots", 0, "feeds", 0, "ops", [{"op": "transpose", "a": 0, "b": 1}]), ""),
        (broken("slots", 1, "name", "weight"), ""),
        (broken("policy", "doubt", "shrug"), "'shrug' is not a valid Verdict"),
    ],
)
def test_broken_plans_are_told_and_the_model_is_as_it_was(tmp_path, change, text):
    model, state = nn.Linear(2, 3), nn.Linear(2, 3).state_dict()
    path = tmp_path / "p.json"
    tg.save_plan(path, tg.plan(model, state))
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    before = copied(model.state_dict())
    with pytest.raises(tg.UsageError) as told:
        tg.load(model, state, plan=path)
    assert text in str(told.value)
    assert unchanged(model, before)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "\ud800"])
def test_what_is_no_json(tmp_path, text):
    (tmp_path / "p.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(tg.UsageError, match="is no plan"):
        tg.read_plan(tmp_path / "p.json")
    with pytest.raises(tg.MissingFileError, match="no such file"):
        tg.read_plan(tmp_path / "none.json")


class Runs(nn.Module):
    """A model that can be run, with a head of some classes."""

    def __init__(self, classes=3):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, classes)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


@pytest.fixture(params=[3, 6], ids=["whole", "parts"])
def proved(request, tmp_path):
    """Return a source, a builder of targets, and a file that holds a plan proved as a whole, or in parts."""
    source = Runs()
    made = tg.plan(
        Runs(request.param), source, inputs=torch.randn(2, 4), on_doubt="take",
        policy=tg.Policy(outputs=tg.Verdict.WARN, coverage=tg.Verdict.WARN, missing=tg.Verdict.WARN),
    )  # fmt: skip
    assert made.proof.passed == (request.param == 3)
    tg.save_plan(tmp_path / "p.json", made)
    return source, lambda: Runs(request.param), tmp_path / "p.json", made


def test_a_proof_is_kept_as_data_and_shown_again(proved):
    source, build, path, made = proved
    read = tg.read_plan(path)
    assert read.proof == made.proof
    assert len(read.proof.seal.inputs) == 64
    assert read.to_dict() == made.to_dict()
    assert made.proof.words() in str(read)
    other = path.with_name("weights.safetensors")
    tg.save(other, source.state_dict())
    report = tg.load(build(), other, plan=path)  # the same values, from another place
    assert report.plan.proof.kept
    assert report.plan.proof.relative == made.proof.relative
    assert f"when the plan was made, {made.proof.words()}" in str(report)
    again = path.with_name("again.json")
    tg.save_plan(again, report.plan)
    assert tg.read_plan(again).proof == report.plan.proof


@pytest.mark.parametrize("what", ["values", "steps"])
def test_a_proof_is_void_once_values_or_steps_are_others(proved, what):
    source, build, path, made = proved
    if what == "values":
        with torch.no_grad():
            source.body.weight[0, 0] += 1
    else:
        data = json.loads(path.read_text())
        slot = next(slot for slot in data["slots"] if slot["name"] == "body.bias")
        slot["rows"] = {"dim": 0, "indices": [0, 1, 2, 3, 4]}
        path.write_text(json.dumps(data))
    report = tg.load(build(), source, plan=path)
    assert report.plan.proof is None
    assert not [check for check in report.checks if check.name == "outputs"]
    said = (
        "the checkpoint holds other values than the one it was made with"
        if what == "values"
        else "its steps were changed since"
    )
    assert f"the plan's own proof no longer holds: {said}" in str(report)
    assert made.proof.words() not in str(report)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (broken("proof", "relative", None), "a number is expected"),
        (broken("proof", "parts", KeyError), "broken plan: KeyError: 'parts'"),
        (broken("proof", "seal", {"inputs": 1}), "a text is expected, not 1"),
        (broken("proof", "seal", "steps", KeyError), "broken plan: KeyError: 'steps'"),
    ],
)
def test_broken_proofs_are_told(proved, change, text):
    path = proved[2]
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(tg.UsageError) as told:
        tg.read_plan(path)
    assert text in str(told.value)


def test_callables_have_no_digest_and_other_inputs_another():
    source = Runs()
    rows = torch.randn(2, 4)
    seals = [
        tg.plan(Runs(), source, inputs=inputs).proof.seal.inputs
        for inputs in (rows, rows.clone(), rows + 1, (rows,), {"x": rows}, lambda model: model(rows))
    ]
    assert seals[0] == seals[1]
    assert seals[-1] == ""
    assert len(set(seals[1:])) >= 4


def test_what_is_no_plan_is_not_written(tmp_path):
    made = tg.plan(nn.Linear(2, 3), nn.Linear(2, 3).state_dict())
    with pytest.raises(tg.UsageError, match="path first"):
        tg.save_plan(made, tmp_path / "p.json")
    assert list(tmp_path.iterdir()) == []
