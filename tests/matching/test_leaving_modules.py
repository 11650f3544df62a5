"""What would leave a module of its own name, though it has a place there, or something else for the place that it takes."""

from __future__ import annotations

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def attention(*names: str) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(8, 8) for name in names})


def block(**parts: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"norm": nn.LayerNorm(8), "mlp": nn.Linear(8, 8), **parts})


def net(*blocks: nn.Module, name: str = "encoder", **parts: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"embed": nn.Embedding(9, 8), name: nn.ModuleList(blocks), "head": nn.Linear(8, 3), **parts})


def file_of(model: nn.Module, prefix: str = "") -> dict[str, object]:
    return {prefix + key: value for key, value in filled(model).state_dict().items()}


def test_an_attention_that_was_dropped_is_not_the_one_beside_it() -> None:
    words = ("query", "key", "value", "out")
    own, cross = attention(*words), nn.Sequential(*(nn.Linear(8, 8) for _ in words))
    file = file_of(net(block(attn=own, cross_attn=cross)))
    with pytest.raises(tg.PlanRefusedError, match=r"the file has encoder.0.cross_attn, too"):
        tg.load(filled(net(block(cross_attn=attention(*words)))), file)


def test_a_part_that_lost_a_layer_of_each_block_keeps_its_name() -> None:
    def blocks(*, whole: bool = True) -> list[nn.Module]:
        return [block(**({"attn": attention("query", "key", "value")} if whole else {})) for _ in range(3)]

    model = filled(net(*blocks(whole=False), extra=nn.ModuleList(blocks()), pos=nn.Embedding(7, 8)))
    file = file_of(net(*blocks(), tables=nn.ModuleDict({"pos": nn.Embedding(7, 8)})))
    with pytest.raises(tg.PlanRefusedError, match=r"the model has encoder.0.norm, too"):
        tg.load(model, file)


def patch(name: str) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(8, 6)})


def test_a_layer_of_the_root_is_not_that_of_another_network_whose_name_it_has() -> None:
    critic = nn.ModuleDict({"patch": patch("proj"), "layers": nn.ModuleList(nn.Linear(8, 5) for _ in range(9))})
    model = net(block(), block(), patch=patch("main"), critic=critic)
    with pytest.raises(tg.PlanRefusedError, match="the model has patch, too"):
        tg.load(filled(model), file_of(net(block(), block(), patch=patch("proj"))))


def test_a_network_at_the_root_is_not_the_copy_below_it_that_was_left_as_it_was() -> None:
    model = net(block(), block(), patch=patch("main"), critic=net(block(), block(), patch=patch("proj")))
    with pytest.raises(tg.PlanRefusedError, match=r"the model has embed, too"):
        tg.load(filled(model), file_of(net(block(), block(), patch=patch("proj"))))


def test_a_new_list_is_not_filled_by_the_members_that_another_one_lost() -> None:
    def blocks(count: int) -> nn.ModuleList:
        return nn.ModuleList(block(fc=nn.Sequential(nn.Linear(8, 6))) for _ in range(count))

    old = nn.ModuleList(block(fc=nn.ModuleDict({"lin": nn.Linear(8, 6)})) for _ in range(2))
    file = file_of(nn.ModuleDict({"embed": nn.Embedding(9, 8), "blocks": old}), "transformer.")
    model = filled(nn.ModuleDict({"embed": nn.Embedding(9, 8), "extra": blocks(1), "blocks": blocks(1)}))
    with pytest.raises(tg.PlanRefusedError, match=r"the model has blocks.0"):
        tg.load(model, file)


def test_of_two_towers_the_one_whose_name_both_sides_have_is_itself() -> None:
    def tower(*, wrapped: bool = False) -> nn.ModuleDict:
        last = nn.Linear(8, 3)
        blocks = nn.ModuleList(block() for _ in range(2))
        return nn.ModuleDict({"blocks": blocks, "out": nn.ModuleDict({"base": last}) if wrapped else last})

    model = filled(nn.ModuleDict({"online": tower(), "teacher": tower()}))
    plan = tg.plan(model, file_of(nn.ModuleDict({"student": tower(), "teacher": tower(wrapped=True)})), on_doubt="take")
    assert {key.split(".")[0] for step in plan.steps if "teacher" in step.slot.name for key in [step.feeds[0].key]} == {
        "teacher"
    }


def test_behind_a_wrapper_a_part_that_was_changed_keeps_its_name_before_a_copy() -> None:
    def part(called: str) -> nn.ModuleDict:
        return nn.ModuleDict({"embed": nn.Embedding(9, 8), called: nn.ModuleList(block() for _ in range(2))})

    parts = {"transformer": part("blocks"), "transformer_b": part("layers"), "head": nn.Linear(8, 3)}
    file = file_of(nn.ModuleDict({"transformer": part("layers"), "head": nn.Linear(8, 3)}))
    with pytest.raises(tg.PlanRefusedError, match=r"the model has transformer.*, too"):
        tg.load(filled(nn.ModuleDict({"model": nn.ModuleDict(parts)})), file)


@pytest.mark.parametrize("names", [("proj_b", "mix"), ("mix", "proj_b")])
def test_of_two_layers_in_a_block_that_with_the_name_and_more_is_not_surely_meant(names):
    shapes = {"up.weight": (12, 6), "down.weight": (6, 12), "norm.weight": (6,)}
    file, model = ({
        f"layers.{n}.{name}": torch.zeros(shape)
        for n in range(2) for name, shape in (shapes | {f"{one}.weight": (6, 6) for one in square}).items()
    } for square in (("proj",), names))  # fmt: skip
    plan = tg.plan(model, file)
    assert {step.slot.name for step in plan.doubtful} == {f"layers.{n}.proj_b.weight" for n in range(2)}


@pytest.mark.parametrize("names", [("side", "branch1"), ("branch1", "side"), ("side1", "branch2")])
def test_of_two_parts_side_by_side_none_is_taken_for_a_third_name(names):
    parts = {"fc1.weight": (12, 6), "fc2.weight": (6, 12)}

    def net(*called: str) -> dict[str, torch.Tensor]:
        shapes = {"norm.weight": (6,)} | {f"{one}.{part}": shape for one in called for part, shape in parts.items()}
        return {f"blocks.{n}.{name}": torch.zeros(shape) for n in range(2) for name, shape in shapes.items()}

    with pytest.raises(tg.PlanRefusedError):
        tg.plan(net("mlp"), dict(sorted(net(*names).items()))).raise_if_refused()
