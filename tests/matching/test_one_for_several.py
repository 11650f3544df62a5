"""What the file has once and the model several times, and what the model's own code copies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 6


def mlp() -> nn.ModuleDict:
    return nn.ModuleDict({"up": nn.Linear(WIDTH, 9, bias=False), "down": nn.Linear(9, WIDTH, bias=False)})


def stack(*, experts: int) -> nn.ModuleDict:
    def layer() -> nn.ModuleDict:
        if not experts:
            return nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "mlp": mlp()})
        inner = nn.ModuleDict({
            "gate": nn.Linear(WIDTH, experts, bias=False), "experts": nn.ModuleList(mlp() for _ in range(experts)),
        })  # fmt: skip
        return nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "mlp": inner})

    return nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(2))})


def test_no_expert_is_picked_for_the_one_layer_of_the_file() -> None:
    plan = tg.plan(stack(experts=3), stack(experts=0))
    assert {step.certainty for step in plan.steps if ".experts." in step.slot.name} <= {Certainty.DOUBT}
    (refusal,) = plan.refusals
    assert "fan_out=" in refusal.text
    assert not any("experts" in name for step in tg.plan(stack(experts=3), stack(experts=0), on_doubt="skip").copied
                   for name in step.slot.names)  # fmt: skip


def test_doubt_that_is_taken_fills_all_experts() -> None:
    dense, model = stack(experts=0), stack(experts=3)
    tg.load(model, dense, on_doubt="take")
    for ours, theirs in zip(model["layers"], dense["layers"], strict=True):
        for expert in ours["mlp"]["experts"]:
            assert torch.equal(expert["up"].weight, theirs["mlp"]["up"].weight)


def test_fan_out_takes_fields() -> None:
    dense, model = stack(experts=0), stack(experts=3)
    gate = model["layers"][1]["mlp"]["gate"].weight.detach().clone()
    tg.load(model, dense, fan_out={"layers.{i}.mlp.": [f"layers.{{i}}.mlp.experts.{e}." for e in range(3)]})
    assert torch.equal(model["layers"][1]["mlp"]["gate"].weight, gate)
    for ours, theirs in zip(model["layers"], dense["layers"], strict=True):
        for expert in ours["mlp"]["experts"]:
            assert torch.equal(expert["down"].weight, theirs["mlp"]["down"].weight)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["layers.{i}.mlp.expert.0."], "did you mean 'layers.0.mlp.experts.0'"),
        (["layers.{j}.mlp.experts.0."], "uses 'j', which its source pattern lacks"),
    ],
)
def test_fan_out_that_leads_nowhere_is_an_error(places: list[str], said: str) -> None:
    with pytest.raises(tg.UsageError, match=said):
        tg.plan(stack(experts=3), stack(experts=0), fan_out={"layers.{i}.mlp.": places})


def test_a_layer_that_does_not_fit_borrows_no_bias_of_another() -> None:
    file = nn.ModuleDict({
        "body": nn.Conv2d(3, 4, 3), "head": nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 8)),
    })  # fmt: skip
    model = nn.ModuleDict({
        "body": nn.Conv2d(3, 4, 3), "head": nn.Sequential(nn.Conv2d(4, 8, 2), nn.ReLU(), nn.Conv2d(8, 8, 1)),
    })  # fmt: skip
    plan = tg.plan(model, file)
    assert not plan.by_name["head.0.bias"].feeds or plan.by_name["head.0.bias"].feeds[0].key == "head.0.bias"
    assert plan.by_name["head.2.bias"].feeds[0].key == "head.2.bias"


class Dropped(nn.Module):
    """A recurrent layer whose weight is drawn anew from a raw one on each pass, as in AWD-LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.LSTM(WIDTH, WIDTH)
        self.weight_hh_l0_raw = nn.Parameter(torch.randn(4 * WIDTH, WIDTH))


def encoder(layer: type[nn.Module]) -> nn.ModuleDict:
    made = [layer() if layer is Dropped else nn.LSTM(WIDTH, WIDTH) for _ in range(2)]
    return nn.ModuleDict({"embed": nn.Embedding(11, WIDTH), "rnns": nn.ModuleList(made)})


def distinct(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.randn(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "0."])
def test_weights_that_are_dropped_go_over_raw_and_copy(prefix: str) -> None:
    state = distinct(encoder(Dropped))
    model = encoder(Dropped)
    tg.load(model, {prefix + name: value for name, value in state.items()})
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("without", ["rnns.{}.module.weight_hh_l0", "rnns.{}.weight_hh_l0_raw"])
def test_a_file_with_one_of_both_fills_raw_and_copy(without: str) -> None:
    state = distinct(encoder(Dropped))
    for layer in range(2):
        state.pop(without.format(layer))
    model = encoder(Dropped)
    tg.load(model, state)
    for layer in range(2):
        kept = state.get(f"rnns.{layer}.weight_hh_l0_raw", state.get(f"rnns.{layer}.module.weight_hh_l0"))
        wrapped = model["rnns"][layer]
        assert torch.equal(wrapped.weight_hh_l0_raw, kept)
        assert torch.equal(wrapped.module.weight_hh_l0, kept)


def test_copies_may_be_kept_fresh() -> None:
    model = encoder(Dropped)
    before = model["rnns"][0].module.weight_hh_l0.detach().clone()
    plan = tg.load(model, distinct(encoder(nn.LSTM)), fresh=["rnns.0.module.weight_hh_l0"]).plan
    assert torch.equal(model["rnns"][0].module.weight_hh_l0, before)
    assert plan.by_name["rnns.1.module.weight_hh_l0"].feeds


@pytest.mark.parametrize("flipped", [False, True])
def test_the_only_layer_of_a_head_is_not_surely_one_of_several(*, flipped: bool) -> None:
    def net(head: nn.Sequential) -> nn.ModuleDict:
        return nn.ModuleDict({"body": stack(experts=0), "head": head})

    one = net(nn.Sequential(nn.Dropout(), nn.Linear(WIDTH, WIDTH)))
    two = net(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4)))
    source, model = (two, one) if flipped else (one, two)
    heads = [
        step for step in tg.plan(model, source.state_dict()).steps if step.slot.name.startswith("head.") and step.feeds
    ]
    assert {step.certainty for step in heads} <= {Certainty.DOUBT}


def test_the_only_layer_of_a_head_keeps_its_place_behind_layers_without_weights() -> None:
    one, two = nn.Sequential(nn.Linear(WIDTH, 4)), nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(WIDTH, 4))
    source, model = (nn.ModuleDict({"body": stack(experts=0), "head": head}) for head in (one, two))
    tg.load(model, source.state_dict())
    assert torch.equal(model["head"][2].weight, source["head"][0].weight)


def test_numbers_of_wrappers_make_no_blocks():
    """A table that the file holds once has one place behind a wrapper called 0, and an added layer another."""

    class Layer(nn.Module):
        def __init__(self, *parts):
            super().__init__()
            self.table = nn.Parameter(torch.randn(4))
            for number, part in enumerate(parts):
                setattr(self, f"fc{number}", part)

    source = nn.ModuleDict({"core": Layer(nn.Linear(3, 5), nn.Linear(5, 7)), "out": nn.Linear(7, 2)})
    wrapped = nn.Sequential(nn.ModuleDict({"core": Layer(nn.Linear(3, 5), nn.Linear(5, 7)), "exit": nn.Linear(7, 2)}))
    wrapped.layers = nn.ModuleList([Layer()])
    plan = tg.plan(wrapped, source.state_dict())
    steps = {step.slot.name: step for step in plan.steps}
    assert [feed.key for feed in steps["0.core.table"].feeds] == ["core.table"]
    assert not steps["layers.0.table"].feeds or steps["layers.0.table"].certainty.value == "doubt"


def test_a_table_for_all_blocks_of_a_list_is_not_for_a_single_block_elsewhere():
    class Block(nn.Module):
        def __init__(self, *, has_table: bool = True):
            super().__init__()
            if has_table:
                self.table = nn.Parameter(torch.randn(4))
            self.fc = nn.Linear(3, 3)

    source = nn.ModuleDict({"layers": nn.ModuleList([Block(has_table=False), Block(has_table=False)])})
    source.table = nn.Parameter(torch.randn(4))
    model = nn.ModuleDict({"layers": nn.ModuleList([Block(), Block()])})
    model.added = nn.ModuleList([Block()])
    steps = {step.slot.name: step for step in tg.plan(model, source.state_dict()).steps}
    assert all(steps[f"layers.{at}.table"].feeds for at in (0, 1))
    assert not steps["added.0.table"].feeds
