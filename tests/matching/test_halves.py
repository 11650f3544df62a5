"""Layers that make two halves are in doubt between two names: which half comes first is said by no shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty, Plan
from torchgraft.matching.reviewing.halves import MODULATED

WIDTH, INNER = 8, 10


def block(first: str, second: str, rows: int = 2 * INNER, *, inside: str = "mlp") -> nn.Module:
    layers = {first: nn.Linear(WIDTH, rows), second: nn.Linear(INNER, WIDTH)}
    return nn.ModuleDict({"norm1": nn.LayerNorm(WIDTH), inside: nn.ModuleDict(layers)})


def network(*names: str, rows: int = 2 * INNER, inside: str = "mlp") -> nn.Module:
    blocks = nn.ModuleList(block(*names, rows, inside=inside) for _ in range(2))
    return nn.ModuleDict({"embed": nn.Embedding(20, WIDTH), "blocks": blocks, "norm": nn.LayerNorm(WIDTH)})


def plan_of(model: nn.Module, file: nn.Module, **said: Any) -> Plan:
    return tg.plan(model, file.state_dict(), **said)


@pytest.mark.parametrize("names", [("wi", "wo"), ("w12", "w3"), ("fc1_gx", "fc2"), ("inner", "outer")])
def test_a_gated_layer_under_another_name_is_in_doubt_with_its_bias(names: tuple[str, str]) -> None:
    plan = plan_of(network("fc1", "fc2"), network(*names))
    for role in ("weight", "bias"):
        step = plan.by_slot[f"blocks.1.mlp.fc1.{role}"]
        assert step.certainty is Certainty.DOUBT
        assert "one half" in step.why.doubt


def test_a_gated_layer_of_the_same_name_is_certain() -> None:
    plan = plan_of(network("fc1", "fc2", inside="mlp"), network("fc1", "fc2", inside="ffn"))
    assert plan.by_slot["blocks.1.mlp.fc1.weight"].certainty is not Certainty.DOUBT


def test_a_layer_whose_output_is_taken_whole_has_no_halves() -> None:
    def ungated(first: str, second: str) -> nn.Module:
        made = network(first, second)
        for one in made["blocks"]:
            one["mlp"][second] = nn.Linear(2 * INNER, WIDTH)
        return made

    plan = plan_of(ungated("c_fc", "c_proj"), ungated("fc1", "fc2"))
    assert plan.by_slot["blocks.1.mlp.c_fc.weight"].certainty is not Certainty.DOUBT


def test_the_caller_says_that_the_halves_agree() -> None:
    model, file = network("fc1", "fc2"), network("inner", "outer")
    names = {f"blocks.{n}.mlp.inner": f"blocks.{n}.mlp.fc1" for n in range(2)}
    tg.load(model, file.state_dict(), rename=names | {f"blocks.{n}.mlp.outer": f"blocks.{n}.mlp.fc2" for n in range(2)})
    assert torch.equal(model["blocks"][1]["mlp"].fc1.weight, file["blocks"][1]["mlp"].inner.weight)


def modulated(name: str, inner: str, rows: int) -> nn.Module:
    final = nn.ModuleDict({name: nn.ModuleDict({inner: nn.Linear(WIDTH, rows)}), "linear": nn.Linear(WIDTH, 3)})
    return nn.ModuleDict({"stem": nn.Linear(5, WIDTH), "final": final})


@pytest.mark.parametrize(
    "names",
    [("norm_out", "linear", "adaLN_modulation", "1"), ("norm", "linear", "mod", "linear"), ("mod", "lin", "act", "fc")],
)
def test_a_layer_of_scales_and_shifts_under_another_name_is_in_doubt(names: tuple[str, str, str, str]) -> None:
    plan = plan_of(modulated(*names[:2], 2 * WIDTH), modulated(*names[2:], 2 * WIDTH))
    step = plan.by_slot[f"final.{names[0]}.{names[1]}.weight"]
    assert step.certainty is Certainty.DOUBT
    assert "scales" in step.why.doubt


def test_a_layer_of_scales_and_shifts_of_the_same_name_is_certain() -> None:
    plan = plan_of(
        modulated("norm", "linear", 2 * WIDTH), nn.ModuleDict({"net": modulated("norm", "linear", 2 * WIDTH)})
    )
    assert plan.by_slot["final.norm.linear.weight"].certainty is not Certainty.DOUBT


def test_six_parts_of_one_modulation_come_in_one_order() -> None:
    plan = plan_of(modulated("norm1", "linear", 6 * WIDTH), modulated("adaLN_modulation", "1", 6 * WIDTH))
    assert "scales" not in plan.by_slot["final.norm1.linear.weight"].why.doubt


def test_keys_and_values_in_one_layer_come_in_that_order() -> None:
    def attention(*names: str) -> nn.Module:
        layers = zip(names, (WIDTH, 2 * WIDTH, WIDTH), strict=True)
        return nn.ModuleDict({"attn": nn.ModuleDict({name: nn.Linear(WIDTH, rows) for name, rows in layers})})

    plan = plan_of(attention("query", "keys_values", "out"), attention("q", "kv_linear", "proj"))
    assert "half" not in plan.by_slot["attn.keys_values.weight"].why.doubt


def encoder(head: str, rows: int = 4) -> nn.Module:
    """Return an encoder whose last layer says two things at once, as mean and variance."""
    return nn.ModuleDict({"conv": nn.Conv2d(3, 6, 3), "fc": nn.Linear(6, 10), head: nn.Linear(10, rows)})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("mu_logvar", "logvar_mu"),
        ("fc_mean_std", "std_mean"),
        ("cls_reg", "reg_cls"),
        ("startEndHead", "end_start"),
        ("hw", "wh"),
    ],
)
def test_a_layer_whose_words_are_turned_round_is_in_doubt_with_its_bias(ours: str, theirs: str) -> None:
    plan = plan_of(encoder(theirs), encoder(ours))
    for role in ("weight", "bias"):
        step = plan.by_slot[f"{theirs}.{role}"]
        assert step.certainty is Certainty.DOUBT
        assert "another order" in step.why.doubt
    model, file = encoder(theirs), encoder(ours)
    tg.load(model, file.state_dict(), rename={ours: theirs})
    assert torch.equal(model[theirs].weight, file[ours].weight)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("dw_conv", "conv_dw"), ("head_cls", "cls_head"), ("out_proj", "proj_out"), ("mu_logvar", "mu_logvar")],
)
def test_words_for_places_may_stand_in_any_order(ours: str, theirs: str) -> None:
    plan = plan_of(encoder(theirs), encoder(ours))
    assert "another order" not in plan.by_slot[f"{theirs}.weight"].why.doubt


@pytest.mark.parametrize("theirs", ["gate_up_proj", "apart"])
def test_halves_of_which_the_name_may_be_untrue_are_in_doubt(theirs: str) -> None:
    model, file = network("gate_up_proj", "down_proj"), network("up_gate_proj", "down_proj")
    if theirs == "apart":
        for one in model["blocks"]:
            one["mlp"] = nn.ModuleDict({
                "gate_proj": nn.Linear(WIDTH, INNER), "up_proj": nn.Linear(WIDTH, INNER), "down_proj": nn.Linear(INNER, WIDTH),
            })  # fmt: skip
    plan = plan_of(model, file)
    gates = [step for name, step in plan.by_slot.items() if "gate" in name]
    assert gates
    assert all(step.certainty is Certainty.DOUBT for step in gates)


@pytest.mark.parametrize("channels", [2 * WIDTH, WIDTH])
def test_a_layer_makes_no_scales_where_a_norm_beside_it_takes_all_of_its_rows(channels: int) -> None:
    """`ln1.linear` is a layer with its norm in timm's LeViT, and the layer of an adaptive norm in diffusers."""

    def net(around: str, layer: str, norm: str) -> nn.Module:
        one = nn.ModuleDict({layer: nn.Linear(WIDTH, 2 * WIDTH, bias=False), norm: nn.BatchNorm1d(channels)})
        block = nn.ModuleDict({around: one, "down": nn.Linear(2 * WIDTH, WIDTH, bias=False)})
        return nn.ModuleDict({"blocks": nn.ModuleList([block]), "head": nn.Linear(WIDTH, 3)})

    plan = plan_of(net("up", "layer", "batch_norm"), net("ln1", "linear", "bn"))
    doubted = MODULATED in {step.why.doubt for step in plan.steps}
    assert doubted is (channels == WIDTH)
