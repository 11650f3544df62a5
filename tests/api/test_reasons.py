"""What a plan gives as the reason of a step is what happened, and in doubt says what is doubtful."""

import pytest
from torch import nn

import torchgraft as tg


def model():
    return nn.ModuleDict({"enc": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))})


def reasons(plan):
    return {step.why.rule for step in plan.steps}


@pytest.mark.parametrize("joint", ["/", "_"])
def test_names_without_dots_are_a_spelling_and_no_rule_of_the_user(joint):
    state = {name.replace(".", joint): value for name, value in model().state_dict().items()}
    assert reasons(tg.plan(model(), state)) == {"spelling"}


def test_names_without_any_dot_are_told_with_one_reason():
    state = {f"model_ema.{name.replace('.', '')}": value for name, value in model().state_dict().items()}
    assert {step.why.text for step in tg.plan(model(), state).steps} == {"same name in another spelling"}


def test_a_rename_is_a_rule_of_the_user():
    state = {name.replace("enc", "old"): value for name, value in model().state_dict().items()}
    assert reasons(tg.plan(model(), state, rename={"old.": "enc."})) == {"user rule"}


class Renamed(nn.Module):
    """Reads files in which its layer has another name."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for key in [key for key in state_dict if key.startswith(f"{prefix}zz.")]:
            state_dict[f"{prefix}fc.{key.rpartition('.')[2]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_what_the_models_own_loading_code_renames_is_told_as_that():
    state = {name.replace("fc.", "zz."): value for name, value in Renamed().state_dict().items()}
    plan = tg.plan(Renamed(), state)
    assert {step.why.rule for step in plan.steps if step.slot.name.startswith("fc")} == {"load hook"}


def tables(*names):
    return nn.ModuleDict({"emb": nn.ModuleDict({name: nn.Embedding(5, 4) for name in names}), "fc": nn.Linear(4, 4)})


@pytest.mark.parametrize("on_doubt", ["refuse", "skip"])
def test_what_is_only_likely_says_so_where_certain_is_asked_for(on_doubt):
    state = {f"module.{name}": value for name, value in tables("user", "item", "gone").state_dict().items()}
    plan = tg.plan(tables("user", "item", "added"), state)
    likely = [step.slot.name for step in plan.steps if step.certainty.name == "LIKELY"]
    assert likely
    plan = tg.plan(tables("user", "item", "added"), state, accept="certain", on_doubt=on_doubt)
    said = [step.why.doubt or step.why.text for step in plan.steps if step.slot.name in likely]
    assert all("likely, not certain: " in text for text in said)
