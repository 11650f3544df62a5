"""Checkpoints in memory that share memory with the model: what is given is what is loaded, whatever is written first."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Pair(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.a, self.b = nn.Linear(n, n, bias=False), nn.Linear(n, n, bias=False)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def swapped(model):
    return {"a.weight": model.b.weight, "b.weight": model.a.weight}


def turned(model):
    return {"a.weight": model.b.weight.t(), "b.weight": model.a.weight.t()}


def one_turned_for_both(model):
    return {"a.weight": model.a.weight.t(), "b.weight": model.a.weight}


def half_a_page_further(model):
    n = len(model.a.weight)
    flat = torch.randn(2 * n * n)
    model.a.weight.data, model.b.weight.data = flat[: n * n].view(n, n), flat[n * n :].view(n, n)
    return {"a.weight": flat[n : n + n * n].view(n, n), "b.weight": flat[: n * n].view(n, n)}


def arrays(model):
    return {name: value.detach().numpy() for name, value in swapped(model).items()}


GIVEN = [swapped, turned, one_turned_for_both, half_a_page_further, arrays]


@pytest.mark.parametrize("undo", ["auto", "keep", "check", "none"])
@pytest.mark.parametrize("n", [4, 1500])
@pytest.mark.parametrize("given", GIVEN, ids=lambda f: f.__name__)
def test_what_was_given_is_loaded(given, n, undo):
    model = Pair(n)
    state = given(model)
    wanted = {name: torch.as_tensor(value).detach().clone() for name, value in state.items()}
    tg.load(model, state, undo=undo)
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_a_load_that_fails_leaves_both_as_they_were():
    model = Pair(4)
    with torch.no_grad():
        model.a.weight[0, 0] = torch.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError):
        tg.load(model, swapped(model))
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7), before[name].nan_to_num(7))


def test_a_plan_that_is_tried_reads_what_was_given():
    model, source = Pair(4), Pair(4)
    source.load_state_dict(swapped(model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = tg.plan(model, swapped(model), source_model=source, inputs=torch.randn(3, 4))
    assert plan.proof.passed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_conversion_reads_what_was_given():
    model = Pair(4)
    learned = tg.learn(lambda state: {"a.weight": state["y"], "b.weight": state["x"]}, {"x": torch.zeros(4, 4), "y": torch.zeros(4, 4)})  # fmt: skip
    state = {"x": model.a.weight, "y": model.b.weight}
    wanted = {"a.weight": model.b.weight.detach().clone(), "b.weight": model.a.weight.detach().clone()}
    tg.load(model, state, learned=learned)
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_an_opened_checkpoint_still_shares_memory_with_what_it_was_made_of():
    model = Pair(4)
    with tg.open_checkpoint(swapped(model)) as source:
        tg.load(model, source)
        assert source.read("", "a.weight").data_ptr() == model.b.weight.data_ptr()


def test_a_checkpoint_that_a_plan_is_made_for_keeps_its_ties(tmp_path):
    table = torch.randn(5, 3)
    torch.save({"emb.weight": table, "head.weight": table, "fc.weight": torch.randn(3, 3)}, tmp_path / "tied.pt")
    plan = tg.plan(tmp_path / "tied.pt", {"emb.weight": table, "fc.weight": torch.randn(3, 3)})
    assert [(step.slot.names, step.feeds[0].key) for step in plan.steps] == [
        (("emb.weight", "head.weight"), "emb.weight"),
        (("fc.weight",), "fc.weight"),
    ]
