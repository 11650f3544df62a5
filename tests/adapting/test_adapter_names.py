"""What is said of adapters that have no place, or are of a kind that isn't merged."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import torchgraft as tg

if TYPE_CHECKING:
    from pathlib import Path


def blocks() -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleDict({"attn": nn.Linear(6, 6)}) for _ in range(2))


def adapters(path: str) -> dict[str, torch.Tensor]:
    names = [f"{path}.layers.{number}.attn" for number in range(2)]
    return {f"{name}.lora_A.weight": torch.rand(2, 6) for name in names} | {
        f"{name}.lora_B.weight": torch.rand(6, 2) for name in names
    }


def test_the_rule_that_is_told_for_adapters_of_another_version_can_be_typed() -> None:
    """A model with language and vision, whose language model moved: base_model.model.language.model to model.language."""
    model = nn.ModuleDict(
        {"model": nn.ModuleDict({side: nn.ModuleDict({"layers": blocks()}) for side in ("vision", "language")})}
    )
    file = adapters("base_model.model.language.model")
    with pytest.raises(tg.UsageError, match="perhaps rename=") as found:
        tg.load(model, file, merge_lora=0.5)
    rule = ast.literal_eval(re.search(r"rename=(\{.*?\})", str(found.value))[1])
    report = tg.load(model, file, merge_lora=0.5, rename=rule)
    assert {step.slot.name for step in report.plan.steps if step.feeds} == {
        f"model.language.layers.{n}.attn.weight" for n in (0, 1)
    }


@pytest.mark.parametrize("sides", [("left", "right"), ("vision",)])
def test_no_rule_is_told_where_none_is_likelier(sides: tuple[str, ...]) -> None:
    model = nn.ModuleDict({side: nn.ModuleDict({"layers": blocks()}) for side in sides})
    with pytest.raises(tg.UsageError) as found:
        tg.load(model, adapters("base.language.model") | adapters("base.other.model"), merge_lora=0.5)
    assert "perhaps" not in str(found.value)


@pytest.mark.parametrize(
    "file",
    [
        {"lora_unet_x.lokr_w1": (4, 4), "lora_unet_x.lokr_w2": (4, 4), "lora_unet_x.alpha": ()},
        {"oft_unet_x.oft_blocks": (4, 4, 4)},
        {"base_model.model.x.boft_R": (2, 4, 4, 4)},
        {"base_model.model.x.vera_lambda_b": (16,), "base_model.model.x.vera_lambda_d": (4,)},
    ],
)
def test_adapters_of_other_kinds_are_told_to_be_none_that_is_merged(file: dict[str, tuple[int, ...]]) -> None:
    """They were told to be merged with merge_lora=, which refused them."""
    model, values = nn.ModuleDict({"x": nn.Linear(16, 16)}), {name: torch.rand(shape) for name, shape in file.items()}
    with pytest.raises(tg.PlanRefusedError, match="it holds adapters, of a kind that isn't merged here"):
        tg.load(model, values)
    with pytest.raises(tg.UsageError, match="of a kind that isn't merged here"):
        tg.load(model, values, merge_lora=True)
    (said,) = [
        one for one in tg.plan(model, values | {"x.weight": torch.rand(16, 16)}).warnings if one.kind == "adapters"
    ]
    assert "of a kind that isn't merged here" in said.remedy


@pytest.mark.parametrize("network", ["unet", ""])
def test_the_scale_that_diffusers_writes_into_the_file_counts(tmp_path: Path, network: str) -> None:
    dot = "." if network else ""
    file = {f"{network}{dot}x.lora_A.weight": torch.rand(2, 6), f"{network}{dot}x.lora_B.weight": torch.rand(6, 2)}
    said = {f"{network}{dot}r": 2, f"{network}{dot}lora_alpha": 8, f"{network}{dot}alpha_pattern": {}}
    if network:
        said["text_encoder.lora_alpha"] = 100
    save_file(file, tmp_path / "a.safetensors", {"format": "pt", "lora_adapter_metadata": json.dumps(said)})
    model = nn.ModuleDict({"x": nn.Linear(6, 6)})
    before = model["x"].weight.detach().clone()
    tg.load(model, tmp_path / "a.safetensors", merge_lora=True)
    down, up = file.values()
    torch.testing.assert_close(model["x"].weight.detach(), before + 4 * up @ down)


def test_what_diffusers_writes_of_another_way_to_start_is_refused(tmp_path: Path) -> None:
    file = {"unet.x.lora_A.weight": torch.rand(2, 6), "unet.x.lora_B.weight": torch.rand(6, 2)}
    said = {"unet.lora_alpha": 8, "unet.init_lora_weights": "pissa"}
    save_file(file, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    with pytest.raises(tg.UsageError, match="init_lora_weights 'pissa'"):
        tg.load(nn.ModuleDict({"x": nn.Linear(6, 6)}), tmp_path / "a.safetensors", merge_lora=True)
