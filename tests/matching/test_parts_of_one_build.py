"""A file that holds once what the model has twice, the one part changed and the other as it was: which one is meant?"""

from __future__ import annotations

import pytest
from filling import filled
from torch import nn

import torchgraft as tg

EITHER = "of the same build"


def net(*, changed: bool = False, shapes: bool = False) -> nn.Module:
    layers = [nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2)]
    if changed:
        layers.insert(0, nn.Dropout())
    parts = {"conv": nn.Conv2d(3, 4, 5 if shapes else 3), "norm": nn.BatchNorm2d(4), "layers": nn.ModuleList(layers)}
    return nn.ModuleDict({**parts, "head": nn.Linear(8, 5)})


@pytest.mark.parametrize(("one", "other"), [("net", "ema"), ("query_encoder", "key_encoder"), ("net", "net_target")])
def test_the_copy_that_was_left_as_it_was_isnt_filled_alone(one: str, other: str) -> None:
    model = filled(nn.ModuleDict({one: net(changed=True), other: net()}))
    with pytest.raises(tg.PlanRefusedError, match=EITHER):
        tg.load(model, filled(net()).state_dict())


def test_an_average_is_a_copy_whatever_of_the_live_part_was_changed() -> None:
    model = filled(nn.ModuleDict({"net": net(changed=True, shapes=True), "model_ema": net()}))
    with pytest.raises(tg.PlanRefusedError, match=EITHER):
        tg.load(model, filled(net()).state_dict())


@pytest.mark.parametrize("name", ["rgb", "model.rgb", "rgb_encoder"])
def test_a_word_of_the_name_tells_which_part_is_meant(name: str) -> None:
    file = {f"{name}.{key}": value for key, value in filled(net()).state_dict().items()}
    model = filled(nn.ModuleDict({"rgb_tower": net(), "depth_tower": net(changed=True), "out": nn.Linear(10, 2)}))
    plan = tg.load(model, file).plan
    assert {step.slot.name.partition(".")[0] for step in plan.steps if step.feeds} == {"rgb_tower"}


def test_a_part_with_layers_of_other_shapes_is_of_another_build() -> None:
    model = filled(nn.ModuleDict({"rgb": net(), "depth": net(changed=True, shapes=True)}))
    plan = tg.load(model, filled(net()).state_dict()).plan
    assert {step.slot.name.partition(".")[0] for step in plan.steps if step.feeds} == {"rgb"}
