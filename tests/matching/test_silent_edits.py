"""Edits of small networks that equal names and fitting shapes hide: nothing is placed elsewhere without a doubt."""

from __future__ import annotations

import pytest
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


def sure(plan: tg.Plan) -> dict[str, str]:
    """Return slot and key of each tensor that a plan places without doubt."""
    return {
        step.slot.name: feed.key for step in plan.steps if step.certainty is not Certainty.DOUBT for feed in step.feeds
    }


def stem(*inside: nn.Module) -> nn.Module:
    body = nn.Sequential(nn.Linear(4, 9), nn.LayerNorm(9), nn.Linear(9, 5))
    return filled(nn.ModuleDict({"stem": nn.Sequential(nn.Conv2d(3, 4, 3), *inside), "body": body}))


@pytest.mark.parametrize("back", [False, True])
def test_an_activation_with_weights_takes_no_norm_that_moved_on(*, back: bool) -> None:
    sides = stem(nn.LayerNorm(4)), stem(nn.PReLU(4), nn.LayerNorm(4))
    file, model = reversed(sides) if back else sides
    placed = sure(tg.plan(model, file.state_dict()))
    assert "stem.1.weight" not in placed
    assert placed["stem.0.weight"] == "stem.0.weight"
    assert len(placed) == len(stem().state_dict())


def test_a_norm_without_a_bias_still_takes_one_with_it() -> None:
    model = stem(nn.LayerNorm(4, bias=False))
    assert sure(tg.plan(model, stem(nn.LayerNorm(4)).state_dict()))["stem.1.weight"] == "stem.1.weight"


def test_a_new_norm_of_every_block_fills_no_gap_of_one() -> None:
    def blocks(*more: str) -> nn.Module:
        return nn.ModuleList(
            nn.ModuleDict({"fc": nn.Linear(6, 6), "norm": nn.LayerNorm(6)} | {name: nn.LayerNorm(6) for name in more})
            for _ in range(2)
        )

    file = {name: value for name, value in filled(blocks("norm3")).state_dict().items() if name != "0.norm.weight"}
    placed = sure(tg.plan(blocks(), file))
    assert "0.norm.weight" not in placed
    assert all(name == key for name, key in placed.items())


def test_a_kernel_for_each_channel_is_not_one_that_reads_all() -> None:
    def net(name: str, *last: nn.Module) -> nn.Module:
        body = nn.Sequential(nn.Conv2d(3, 4, 4), nn.ReLU(), nn.Conv2d(4, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), *last)
        return filled(nn.ModuleDict({name: body}))

    parts = nn.ModuleDict({"depthwise": nn.Conv2d(8, 8, 4, groups=8, bias=False), "pointwise": nn.Conv2d(8, 1, 1)})
    placed = sure(tg.plan(net("net", nn.Conv2d(8, 1, 4)), net("trunk", nn.ReLU(), parts).state_dict()))
    assert "net.5.weight" not in placed


def test_one_of_two_layers_in_a_row_is_not_picked_where_the_other_would_fit_elsewhere_too() -> None:
    def net(depth: int, *, two: int) -> nn.Module:
        def out(at: int) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) if at < two else nn.Linear(8, 8)

        blocks = [
            nn.ModuleDict({"norm": nn.LayerNorm(8), "qkv": nn.Linear(8, 24), "out": out(depth - 1 - at)})
            for at in range(depth)
        ]
        return filled(nn.ModuleDict({"embed": nn.Embedding(13, 8), "h": nn.ModuleList(blocks)}))

    placed = sure(tg.plan(net(3, two=0), net(2, two=1).state_dict()))
    assert "h.1.out.weight" not in placed
