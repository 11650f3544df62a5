"""Heads of one task in the file, and of another in the model: what they have in common by name is another thing."""

from __future__ import annotations

import pytest
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 8


def encoder() -> nn.Module:
    return nn.ModuleList(
        nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "fc1": nn.Linear(WIDTH, 20), "fc2": nn.Linear(20, WIDTH)})
        for _ in range(3)
    )


def net(**heads: nn.Module) -> nn.Module:
    return filled(nn.ModuleDict({"words": nn.Embedding(30, WIDTH), "layers": encoder(), **heads}))


def of_sequences() -> nn.Module:
    return net(classifier=nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "out_proj": nn.Linear(WIDTH, 2)}))


def of_tokens() -> nn.Module:
    return net(classifier=nn.Linear(WIDTH, 2))


def of_words() -> nn.Module:
    part = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "norm": nn.LayerNorm(WIDTH)})
    return net(cls=nn.ModuleDict({"transform": part, "decoder": nn.Linear(WIDTH, 30)}))


def of_answers() -> nn.Module:
    part = nn.ModuleDict({"dense": nn.Linear(20, WIDTH), "norm": nn.LayerNorm(WIDTH)})
    return net(qa=nn.ModuleDict({"output": part, "scores": nn.Linear(WIDTH, 2)}))


@pytest.mark.parametrize(
    ("file", "model"),
    [
        (of_sequences(), of_tokens()),
        (of_tokens(), of_sequences()),
        (of_words(), of_answers()),
        (of_answers(), of_words()),
    ],
)
def test_of_a_head_of_another_task_nothing_is_used_without_a_word(file: nn.Module, model: nn.Module) -> None:
    plan = tg.plan(model, file.state_dict())
    taken = {slot: step for slot, step in plan.by_slot.items() if not slot.startswith(("words", "layers"))}
    assert all(step.certainty is Certainty.DOUBT or not step.feeds for step in taken.values())
    assert all(step.feeds for slot, step in plan.by_slot.items() if slot not in taken)


def test_a_dropout_or_an_adapter_is_no_other_task() -> None:
    low, high = nn.Linear(WIDTH, 3, bias=False), nn.Linear(3, 2, bias=False)
    wrapped = nn.ModuleDict({"base_layer": nn.Linear(WIDTH, 2), "lora_A": low, "lora_B": high})
    plan = tg.load(net(classifier=wrapped), of_tokens().state_dict()).plan
    assert plan.by_slot["classifier.base_layer.weight"].feeds
