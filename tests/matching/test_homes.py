"""Parts that were added in the place of others: shapes alone send nothing from one into the other."""

from __future__ import annotations

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

State = dict[str, torch.Tensor]


def sure(model: nn.Module, file: State) -> dict[str, str]:
    plan = tg.plan(model, file, on_doubt="take")
    return {s.slot.name: s.feeds[0].key for s in plan.steps if s.feeds and s.certainty is not Certainty.DOUBT}


def layers(first: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(first, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5))


def tower() -> nn.ModuleDict:
    return nn.ModuleDict({"norm": nn.LayerNorm(6), "mlp": layers(6), "proj": nn.Linear(6, 3)})


def test_of_a_part_that_the_file_cut_otherwise_no_copy_fills_the_gap() -> None:
    model = filled(nn.ModuleDict({"encoder": layers(), "head": nn.Linear(5, 3)}))
    cut = nn.Sequential(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 6)), *layers()[1:])
    file = filled(nn.ModuleDict({"encoder": cut, "encoder_b": layers(), "head": nn.Linear(5, 3)})).state_dict()
    placed = sure(model, file)
    assert not any(key.startswith("encoder_b") for key in placed.values())
    assert placed["encoder.2.weight"] == "encoder.2.weight"


def test_an_added_copy_is_not_filled_by_what_the_old_part_lost() -> None:
    short = nn.Sequential(*layers()[:4])
    model = filled(nn.ModuleDict({"net": short, "net_target": layers(), "head": nn.Linear(5, 3)}))
    file = filled(nn.ModuleDict({"net": layers(), "head": nn.Linear(5, 3)})).state_dict()
    assert not any(name.startswith("net_target") for name in sure(model, file))


@pytest.mark.parametrize(("other", "told"), [("shared", False), ("visual_b", True)])
def test_which_of_two_towers_a_third_is_follows_from_its_name_alone(*, other: str, told: bool) -> None:
    model = filled(nn.ModuleDict({"visual": tower(), "text": tower(), "scale": nn.LayerNorm(3)}))
    parts = {"parts": nn.ModuleDict({"text": tower()}), other: tower(), "scale": nn.LayerNorm(3)}
    placed = sure(model, filled(nn.ModuleDict(parts)).state_dict())
    assert placed["text.mlp.0.weight"] == "parts.text.mlp.0.weight"
    assert any(name.startswith("visual") for name in placed) == told


def test_a_tied_module_of_which_the_file_has_both_copies_fills_no_new_one() -> None:
    model = filled(nn.ModuleDict({"encoder": layers(), "project": nn.Linear(5, 5)}))
    file = {f"{name}.{k}": v for name in ("encoder", "twin") for k, v in filled(layers()).state_dict().items()}
    file |= {f"project.{k}": v for k, v in model["project"].state_dict().items()}
    model["twin"] = model["encoder"]
    model["twin_target"] = filled(layers())
    assert not any(name.startswith("twin_target") for name in sure(model, file))


@pytest.mark.parametrize(("name", "told"), [("pre_head_norm", False), ("norm", True)])
def test_a_norm_with_more_in_its_name_is_another_one(*, name: str, told: bool) -> None:
    def net(called: str) -> nn.Module:
        parts = {"embed": nn.Embedding(9, 6), "body": layers(6), called: nn.LayerNorm(5), "head": nn.Linear(5, 3)}
        return filled(nn.ModuleDict(parts))

    assert (f"{name}.weight" in sure(net(name), net("norm").state_dict())) == told
