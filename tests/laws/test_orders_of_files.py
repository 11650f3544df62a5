"""In whatever order a file has its tensors, and whatever words it calls them by: what is placed without doubt is right."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg

W = 8
WORDS = (
    "amber birch cedar dune elm fern grove heath iris jade kelp lotus maple north oak pine quartz reed sage thyme vale"
)


def named(**parts: nn.Module) -> nn.Module:
    return nn.ModuleDict(parts)


def linear(*sizes: int, bias: bool = True) -> nn.Module:
    return nn.Linear(*sizes, bias=bias)


def bottlenecks(*, bias: bool = True) -> nn.Module:
    blocks = [
        named(
            first=linear(W, W, bias=bias),
            wide=linear(W, 20, bias=bias),
            slim=linear(20, W, bias=bias),
            last=linear(W, W, bias=bias),
        )
        for _ in range(3)
    ]
    return named(enter=linear(3, W), blocks=nn.ModuleList(blocks), leave=linear(W, W))


def transformer() -> nn.Module:
    def attention() -> nn.Module:
        return named(**{name: linear(W, W) for name in ("query", "key", "value", "mix")})

    layers = [
        named(before=nn.LayerNorm(W), attend=attention(), after=nn.LayerNorm(W), up=linear(W, 20), down=linear(20, W))
        for _ in range(2)
    ]
    return named(table=nn.Embedding(30, W), layers=nn.ModuleList(layers), final=nn.LayerNorm(W), head=linear(W, 30))


def convolutions() -> nn.Module:
    def stage(width: int) -> nn.Module:
        kernels = [nn.Conv2d(a, b, 3, bias=False) for a, b in ((W, W), (W, width), (width, W))]
        return named(one=kernels[0], norm=nn.BatchNorm2d(W), two=kernels[1], back=kernels[2])

    return named(stem=nn.Conv2d(3, W, 3), low=stage(12), mid=stage(16), high=stage(12), head=linear(W, 5))


MODELS = {"bottlenecks": bottlenecks, "without biases": lambda: bottlenecks(bias=False), "transformer": transformer,
          "convolutions": convolutions}  # fmt: skip


def by_type(names: list[str], halves: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (name in halves, name))


def in_order(names: list[str], order: str, random: Random, halves: set[str]) -> list[str]:
    """Return names as a program may write them that keeps no order."""
    third = len(names) // 3
    return {
        "sorted": lambda: sorted(names),
        "by type": lambda: by_type(names, halves),
        "in shards": lambda: [*sorted(names[:third]), *sorted(names[third:])],
        "turned round": lambda: names[::-1],
        "shuffled": lambda: random.sample(names, len(names)),
    }[order]()


def renamed(names: list[str], random: Random) -> dict[str, str]:
    """Return names in other words, each word in the same one everywhere; numbers and what a tensor is to its layer stay."""
    used = dict.fromkeys(part for name in names for part in name.split(".")[:-1] if not part.isdecimal())
    new = dict(zip(used, random.sample(WORDS.split(), len(used)), strict=True))
    return {
        name: ".".join([*(new.get(part, part) for part in name.split(".")[:-1]), name.split(".")[-1]]) for name in names
    }


@pytest.mark.parametrize("order", ["sorted", "by type", "in shards", "turned round", "shuffled"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_placed_without_doubt_is_right(model, order, seed):
    random = Random(seed)  # noqa: S311  # no secrets
    net = model()
    state = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    words = renamed(list(state), random)
    halves = {name for name in words.values() if random.random() < 0.3} if order == "by type" else set()
    values = {words[name]: value.half() if words[name] in halves else value for name, value in state.items()}
    file = {name: values[name] for name in in_order(list(values), order, random, halves)}
    plan = tg.plan(net, file, on_doubt="skip")
    placed = {step.slot.name: step.feeds[0].key for step in plan.steps if step.feeds}
    assert placed == {name: words[name] for name in placed}
