"""Fused projections under names that say nothing: convolutions of one position, and keys with values but without queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import torchgraft as tg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WIDTH = 12


def conv(rows: int) -> nn.Module:
    return nn.Conv2d(WIDTH, WIDTH * rows, 1)


def linear(rows: int) -> nn.Module:
    return nn.Linear(WIDTH, WIDTH * rows)


def network(layer: Callable[[int], nn.Module], rows: Mapping[str, int]) -> nn.Module:
    """Return two blocks of an attention, each part with so many times as many rows as the model is wide."""

    def attention() -> nn.Module:
        return nn.ModuleDict({name: layer(times) for name, times in rows.items()})

    return nn.ModuleDict({"blocks": nn.ModuleList(nn.ModuleDict({"attn": attention()}) for _ in range(2))})


@pytest.mark.parametrize("layer", [conv, linear])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"one": 3, "two": 1}, {"qkv": 3, "proj": 1}),
        ({"a": 1, "b": 2, "c": 1}, {"q": 1, "kv": 2, "proj": 1}),
    ],
)
def test_what_is_fused_without_a_name_feeds_what_is_fused_by_name(
    layer: Callable[[int], nn.Module], ours: Mapping[str, int], theirs: Mapping[str, int]
) -> None:
    old, new = network(layer, ours), network(layer, theirs)
    tg.load(new, old.state_dict(), on_doubt="take")
    for mine, yours in zip(ours, theirs, strict=True):
        kept, got = (net["blocks"][1]["attn"][name] for net, name in ((old, mine), (new, yours)))
        assert torch.equal(got.weight, kept.weight)
        assert torch.equal(got.bias, kept.bias)
