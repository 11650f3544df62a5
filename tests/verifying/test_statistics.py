"""Figures are those of the values, and each rule tells of what was planted and of nothing else."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.verifying.values import moments


def figures(state, **more):
    return tg.inspect(state, statistics=True, **more).statistics


def trained(seed=0):
    """Return a small network with values that no initialisation leaves."""
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        *[nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Linear(64, 64), nn.LayerNorm(64)) for _ in range(5)],
        nn.Embedding(80, 16),
    )  # fmt: skip
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=g).sign() * torch.rand(value.shape, generator=g) ** 2 * 0.3)
        if "running_var" in name or (name.split(".")[1:2] in (["1"], ["3"]) and name.endswith("weight")):
            value.copy_(torch.rand(value.shape, generator=g) + 0.5)
    return state


def rules(state):
    return [(s.rule, s.names) for s in figures(state).suspicions]


def test_nothing_is_strange_about_values_that_were_trained():
    assert rules(trained()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (70, 3), (4, 3, 5, 5), (1, 9), (3, 1), ()])
@pytest.mark.parametrize("piece", [64, 1 << 20])
def test_figures_are_those_of_the_values(dtype, shape, piece, monkeypatch):
    monkeypatch.setattr(moments, "PIECE", piece)
    value = (torch.randn(shape, generator=torch.Generator().manual_seed(4)) * 3 + 2).to(dtype)
    found = figures({"w": value, "n": torch.arange(3)}).tensors
    assert list(found) == ["w"]
    plain = value.double().numpy().reshape(-1)
    w = found["w"]
    assert (w.numel, w.odd, w.least, w.greatest) == (plain.size, 0, plain.min(), plain.max())
    assert w.mean == pytest.approx(plain.mean(), rel=1e-5)
    assert w.std == pytest.approx(plain.std(), rel=1e-5, abs=1e-9)
    assert w.rms == pytest.approx(np.sqrt((plain**2).mean()), rel=1e-5)
    if plain.std() > 0:
        assert w.kurtosis == pytest.approx(((plain - plain.mean()) ** 4).mean() / plain.std() ** 4, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.integers(8, 64))
def test_figures_hold_for_any_values(values, piece):
    array = np.array(values, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "PIECE", piece)
        found = figures({"w": torch.from_numpy(array.copy())}).tensors["w"]
    good = array[np.isfinite(array)].astype(np.float64)
    assert found.odd == array.size - good.size
    if good.size:
        assert (found.least, found.greatest) == (good.min(), good.max())
        assert found.below == (good <= 0).sum()
        assert found.mean == pytest.approx(good.mean(), rel=1e-4, abs=1e-5 * np.abs(good).max())


def test_rows_of_one_value_are_counted_across_pieces(monkeypatch):
    monkeypatch.setattr(moments, "PIECE", 100)
    value = torch.randn(40, 6)
    value[[3, 17]] = 0
    value[39] = 2.5
    found = figures({"w": value}).tensors["w"]
    assert (found.rows, found.zero_rows, found.even_rows) == (40, 2, 3)


PLANTED = {
    "variance of zero": ("3.1.running_var", lambda v: v[4:6].zero_(), "variance", "2 of 16 values"),
    "variance below zero": ("3.1.running_var", lambda v: v[4].fill_(-1), "variance", "least -1"),
    "NaN": ("2.0.weight", lambda v: v[0, 0, 0, 0].fill_(torch.nan), "nonfinite", "1 values of 2.0.weight"),
    "norm off": ("2.3.weight", lambda v: v.zero_(), "norm weights", "switched off"),
    "norm around zero": ("2.3.weight", lambda v: v.sub_(v.mean()), "norm weights", "centred on 0"),
    "untrained layer": ("1.2.weight", lambda v: nn.init.uniform_(v, -0.125, 0.125), "initial", "torch's default"),
    "untrained table": ("5.weight", lambda v: v.normal_(std=0.02), "initial", "normal with deviation 0.02"),
    "Glorot": ("1.2.weight", nn.init.xavier_uniform_, "initial", "Glorot"),
    "cut normal": ("1.2.weight", lambda v: nn.init.trunc_normal_(v, std=0.02, a=-0.04, b=0.04), "initial", "cut off"),
    "scale up": ("4.2.weight", lambda v: v.mul_(100), "scale", "98.5 times"),
    "scale down": ("4.2.weight", lambda v: v.div_(100), "scale", "1/101 of"),
    "dead units": ("0.0.weight", lambda v: v[2:5].zero_(), "rows", "3 of the 16 rows"),
    "even rows": ("0.2.weight", lambda v: v[2].fill_(0.1), "rows", "1 of the 64 rows of 0.2.weight are one value"),
    "constant": ("0.2.weight", lambda v: v.fill_(0.2), "constant", "all 4096 values of 0.2.weight are 0.2"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_what_was_planted_is_told_and_nothing_else(fault):
    name, plant, rule, words = PLANTED[fault]
    state = trained()
    torch.manual_seed(8)
    with torch.no_grad():
        plant(state[name])
    found = figures(state).suspicions
    assert [(s.rule, s.names) for s in found] == [(rule, (name,))]
    assert words in found[0].text


def test_a_row_of_padding_is_let_pass_in_a_table():
    state = trained()
    state["5.weight"][0] = 0
    assert rules(state) == []
    state["5.weight"][1] = 0
    assert rules(state) == [("rows", ("5.weight",))]


def test_a_network_that_was_never_trained_is_told_once():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.Linear(64, 64)
    )
    found = [s for s in figures(model.state_dict()).suspicions if s.rule == "initial"]
    assert len(found) == 1
    assert "3 of 3 weights look as initialisation leaves them" in found[0].text
    assert "2 of 2 norms have weights of exactly 1" in found[0].text


def test_chance_seldom_makes_a_trained_weight_look_drawn():
    found = 0
    for seed in range(30):
        g = torch.Generator().manual_seed(seed)
        state = {"w": torch.randn(64, 64, generator=g) * 0.03, "u": (torch.rand(64, 64, generator=g) - 0.5) * 0.23}
        found += len(rules(state))
    assert found == 0


def test_load_and_plan_warn_of_what_they_would_load_and_a_policy_may_refuse():
    state = {"weight": torch.randn(16, 4), "bias": torch.randn(16), "extra": torch.zeros(9, 3)}
    state["weight"][3:5] = 0
    model = nn.Linear(4, 16)
    made = tg.plan(model, state, statistics=True)
    assert [(o.kind, o.names) for o in made.warnings] == [("suspect", ("weight",))]
    assert not tg.plan(model, state).warnings
    report = tg.load(model, state, statistics=True)
    assert "2 of the 16 rows of weight are zero" in str(report)
    with pytest.raises(tg.PlanRefusedError, match="2 of the 16 rows"):
        tg.load(model, state, statistics=True, policy=tg.Policy(suspect=tg.Verdict.REFUSE))


def test_an_inspection_tells_it_as_text_and_as_json():
    state = trained()
    state["3.1.running_var"][0] = 0
    found = tg.inspect(state, statistics=True)
    assert "values: " in str(found)
    assert "1 remark\n" in str(found)
    data = json.loads(json.dumps(found.to_dict()))["statistics"]
    assert data["suspicions"][0]["rule"] == "variance"
    assert data["tensors"]["3.1.running_var"]["min"] == 0
    assert "nothing strange" in str(tg.inspect(trained(), statistics=True))
    assert tg.inspect(state).to_dict()["statistics"] is None


@pytest.mark.parametrize("size", [1e100, 1e200])
def test_figures_of_values_whose_powers_overflow_are_finite(size):
    """Fourth powers of the first leave the range of float64, squares of the second."""
    found = figures({"w": torch.tensor([size, -size, 0.5 * size], dtype=torch.float64)}).tensors["w"]
    assert np.isfinite([found.mean, found.std, found.kurtosis]).all()
    assert (found.least, found.greatest, found.kurtosis) == (-size, size, 0.0)
