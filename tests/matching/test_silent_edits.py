"""Edits of small networks that equal names and fitting shapes hide: nothing is placed elsewhere without a doubt."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
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


def transformer(depth: int, width: int = 6) -> nn.Module:
    return nn.ModuleList(
        nn.ModuleDict({"norm": nn.LayerNorm(width), "up": nn.Linear(width, 9), "down": nn.Linear(9, width)})
        for _ in range(depth)
    )


def test_an_inserted_layer_of_other_sizes_uses_up_none_of_its_neighbours() -> None:
    def net(name: str, *widths: int) -> nn.Module:
        return filled(nn.ModuleDict({name: nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))}))

    file = net("body", 7, 12, 12, 12, 12, 3).state_dict()
    placed = sure(tg.plan(net("net", 9, 12, 12, 12, 3), file))
    assert not any(name.startswith(("net.1", "net.2")) for name in placed)
    assert placed["net.3.weight"] == "body.4.weight"


def test_a_block_that_left_its_list_for_another_is_not_told_from_those_that_stayed() -> None:
    def towers(visual: int, text: int) -> nn.Module:
        embed = {"patch": nn.Conv2d(3, 6, 4), "blocks": transformer(visual)}
        words = {"embed": nn.Embedding(7, 6), "blocks": transformer(text)}
        return filled(nn.ModuleDict({"visual": nn.ModuleDict(embed), "text": nn.ModuleDict(words)}))

    placed = sure(tg.plan(towers(3, 1), towers(2, 2).state_dict()))
    assert all(name.partition(".")[0] == key.partition(".")[0] for name, key in placed.items())


def test_a_list_of_one_block_counted_from_one_is_not_the_second_of_two() -> None:
    def net(depth: int, head: str) -> nn.Module:
        return filled(nn.ModuleDict({"layers": transformer(depth), head: nn.Linear(6, 3)}))

    file = net(1, "old_head").state_dict()
    placed = sure(tg.plan(net(2, "head"), file))
    assert sum(name.startswith("layers") for name in placed) == len(file) - 2
    moved = {name.replace("layers.0", "layers.1"): value for name, value in file.items()}
    assert not any(name.startswith("layers") for name in sure(tg.plan(net(2, "head"), moved)))


def test_shorter_lists_counted_from_one_are_not_the_end_of_longer_ones() -> None:
    def towers(depth: int) -> nn.Module:
        parts = {name: nn.ModuleDict({"blocks": transformer(depth)}) for name in ("visual", "text")}
        return filled(nn.ModuleDict({**parts, "head": nn.Linear(6, 3)}))

    file = towers(2).state_dict()
    assert len(sure(tg.plan(towers(3), file))) == len(file)
    moved = {name.replace("blocks.1", "blocks.2").replace("blocks.0", "blocks.1"): v for name, v in file.items()}
    assert set(sure(tg.plan(towers(3), moved))) == {"head.weight", "head.bias"}
    beside = {**moved, "head.norm.weight": torch.ones(9)}
    assert set(sure(tg.plan(towers(3), beside))) == {"head.weight", "head.bias"}


def test_blocks_behind_one_of_another_build_may_have_moved_by_one() -> None:
    def experts(*names: str) -> nn.Module:
        sizes = {"gate": 9, "squeeze": 2}
        blocks = [nn.ModuleDict({name: nn.Linear(6, size := sizes[name]), "out": nn.Linear(size, 6)}) for name in names]
        return filled(nn.ModuleDict({"norm": nn.LayerNorm(6), "experts": nn.ModuleList(blocks)}))

    placed = sure(tg.plan(experts("gate", "gate", "gate"), experts("gate", "squeeze", "gate").state_dict()))
    assert {name for name in placed if name.startswith("experts.2")} == set()
    assert placed["experts.0.gate.weight"] == "experts.0.gate.weight"


@pytest.mark.parametrize(("kept", "told"), [("net_new", False), ("net", True)])
def test_which_of_two_parts_of_one_build_a_third_is_must_be_said(*, kept: str, told: bool) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

    file = filled(nn.ModuleDict({"layers": net(), kept: net()})).state_dict()
    placed = sure(tg.plan(nn.ModuleDict({"net": net()}), file))
    assert bool(placed) == told
    assert all(key.startswith(kept) for key in placed.values())


def test_a_head_goes_into_no_new_block_that_happens_to_have_its_shapes() -> None:
    def net(*kinds: str, head: int, size: int) -> nn.Module:
        def block(kind: str) -> nn.Module:
            if kind == "adapter":
                return nn.ModuleDict({"down": nn.Linear(8, 3), "up": nn.Linear(3, 8)})
            return nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2, kdim=size, vdim=size), "ln": nn.LayerNorm(8)})

        blocks = nn.ModuleList(block(kind) for kind in kinds)
        return filled(nn.ModuleDict({"blocks": blocks, "out": nn.Linear(8, head)}))

    file = net("plain", "plain", head=3, size=6).state_dict()
    placed = sure(tg.plan(net("plain", "adapter", "plain", head=11, size=8), file))
    assert not any("down" in name for name in placed)


@pytest.mark.parametrize("order", [list, sorted])
def test_a_layer_of_another_number_does_not_pass_those_that_keep_theirs(order: Callable[..., list[object]]) -> None:
    def row(*names: str) -> nn.Module:
        return filled(nn.ModuleDict({name: nn.Linear(8, 8) for name in names}))

    file, model = row("fc1", "fc2", "fc3", "fc4", "fc5"), row("fc1", "fc3", "fc4", "fc4_2", "fc5")
    assert "fc4_2.weight" not in sure(tg.plan(model, dict(order(file.state_dict().items()))))


@pytest.mark.parametrize("other", ["head1", "head", "out1"])
def test_a_layer_is_not_taken_for_certain_because_a_word_speaks_against_the_other_one(other: str) -> None:
    """`fc1` may be a head as well: that it is called as a part of an MLP says nothing for a name it shares no word with."""
    file, model = (
        nn.ModuleDict({"fc1": nn.Linear(4, 8)}),
        nn.ModuleDict({other: nn.Linear(4, 8), "proj": nn.Linear(4, 8)}),
    )
    assert not sure(tg.plan(filled(model), filled(file).state_dict()))
