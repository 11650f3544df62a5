"""What stays free speaks against a pair: a place of the same shapes, a block's twin, a name that leads elsewhere."""

from __future__ import annotations

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


def encoder(depth: int, *, scale: int = 1) -> nn.Module:
    blocks = [nn.ModuleDict({"norm": nn.LayerNorm(6), "fc": nn.Linear(6, 6 * scale)}) for _ in range(depth)]
    return nn.ModuleDict({"embed": nn.Embedding(7, 6), "blocks": nn.ModuleList(blocks)})


def sure(plan: tg.Plan) -> dict[str, str]:
    """Return slot and key of each tensor that a plan places without doubt."""
    return {
        step.slot.name: feed.key for step in plan.steps if step.certainty is not Certainty.DOUBT for feed in step.feeds
    }


def test_what_two_parts_of_the_file_hold_alike_fills_no_deeper_model() -> None:
    file = filled(nn.ModuleDict({"student": encoder(3), "teacher": encoder(3)})).state_dict()
    plan = tg.plan(encoder(12), file)
    parts = {key.partition(".")[0] for key in sure(plan).values()}
    assert len(parts) < 2


def test_one_of_two_new_parts_of_one_build_is_not_picked() -> None:
    file = filled(nn.ModuleDict({"model": encoder(3)})).state_dict()
    plan = tg.plan(
        nn.ModuleDict({"0": nn.ModuleDict({"net": encoder(3)}), "0_b": nn.ModuleDict({"net": encoder(3)})}), file
    )
    assert not sure(plan)


def test_a_block_whose_own_place_is_free_goes_to_no_other() -> None:
    file = filled(encoder(2)).state_dict()
    model = encoder(3)
    model["blocks"][1]["fc"] = nn.Linear(6, 12)
    plan = tg.plan(model, file)
    assert all(name == key for name, key in sure(plan).items())


def stage(cin: int, width: int, order: tuple[int, ...]) -> nn.ModuleList:
    """Return residual blocks, of which the one that changes the width has a branch beside it."""
    blocks = []
    for at in order:
        inside = {"conv1": nn.Conv2d(cin if at == 0 else width, width, 3, bias=False), "bn1": nn.BatchNorm2d(width)}
        inside |= {"conv2": nn.Conv2d(width, width, 3, bias=False), "bn2": nn.BatchNorm2d(width)}
        branch = nn.Sequential(nn.Conv2d(cin, width, 1, bias=False), nn.BatchNorm2d(width))
        blocks.append(nn.ModuleDict(inside | ({"downsample": branch} if at == 0 else {})))
    return nn.ModuleList(blocks)


def test_parts_of_one_block_do_not_go_to_two() -> None:
    def net(*order: int) -> nn.Module:
        return filled(nn.ModuleDict({
            "conv1": nn.Conv2d(3, 4, 3), "layer1": stage(4, 4, (1, 1)), "layer2": stage(4, 8, order), "fc": nn.Linear(8, 3)
        }))  # fmt: skip

    placed = sure(tg.plan(net(1, 0), net(0, 1).state_dict()))
    ends = {(key.split(".")[1], name.split(".")[1]) for name, key in placed.items() if name.startswith("layer2")}
    assert ends <= {("0", "1"), ("1", "0")}


@pytest.mark.parametrize("first", [0, 1])
def test_lists_that_count_from_other_numbers_and_differ_in_length_are_in_doubt(first: int) -> None:
    state = filled(encoder(2)).state_dict()
    file = {name.replace("blocks.1", f"blocks.{1 + first}").replace("blocks.0", f"blocks.{first}"): value
            for name, value in state.items()}  # fmt: skip
    file["old_head.weight"] = torch.randn(5, 6)
    placed = {name for name in sure(tg.plan(encoder(3), file)) if "blocks" in name}
    assert bool(placed) == (first == 0)


def test_what_the_file_has_under_several_numbers_is_not_for_all() -> None:
    def one(width: int) -> dict[str, torch.Tensor]:
        return {"weight": torch.randn(width, 6), "bias": torch.randn(width)}

    file = {f"text_{at}_{name}_{end}": value for at in range(2) for name, width in (("fc", 9), ("out", 11))
            for end, value in one(width).items()}  # fmt: skip
    text = nn.ModuleList(nn.ModuleDict({"fc": nn.Linear(6, 9), "out": nn.Linear(6, 11)}) for _ in range(2))
    placed = sure(tg.plan(nn.ModuleDict({"heads": nn.ModuleDict({"text": text})}), file))
    assert len(set(placed.values())) == len(placed)


def test_a_vector_whose_own_place_is_free_goes_to_no_other() -> None:
    def block() -> nn.ModuleDict:
        return nn.ModuleDict({"bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(4)})

    state = filled(nn.ModuleList(block() for _ in range(2))).state_dict()
    gone = {"0.bn1.weight", "0.bn2.running_mean", "0.bn2.running_var", "0.bn2.bias", "1.bn1.bias"}
    model = nn.ModuleList(nn.ModuleDict({**block(), "extra": nn.Linear(3, 5)}) for _ in range(2))
    placed = sure(tg.plan(model, {name: value for name, value in state.items() if name not in gone}))
    assert all(name == key for name, key in placed.items())


@pytest.mark.parametrize("wrapper", ["", "net."])
def test_a_rival_of_another_name_is_none_however_the_model_is_wrapped(wrapper: str) -> None:
    model = filled(nn.ModuleDict({"table": nn.Embedding(7, 6), "body": nn.LSTM(6, 5), "out": nn.Linear(5, 7)}))
    file = {("1." if name.startswith("out") else "0.") + name: value for name, value in model.state_dict().items()}
    file["0.table_dropped.emb.weight"] = torch.randn(7, 6)
    plan = tg.plan(nn.ModuleDict({"net": model}) if wrapper else model, file)
    assert sure(plan)[wrapper + "table.weight"] == "0.table.weight"


def test_a_part_of_other_sizes_sends_its_layers_into_no_twin() -> None:
    def heads(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))

    file = filled(nn.ModuleDict({**encoder(2), "heads": heads(6)})).state_dict()
    model = nn.ModuleDict({**encoder(2), "heads": heads(8), "heads_aux": heads(6), "norm": nn.LayerNorm(6)})
    assert not any(name.startswith("heads_aux") for name in sure(tg.plan(model, file)))


def test_a_layer_that_became_two_gives_its_bias_to_neither() -> None:
    def net(stem: nn.Module) -> nn.Module:
        return filled(nn.ModuleDict({"stem": stem, "norm": nn.BatchNorm2d(6), "fc": nn.Linear(6, 3)}))

    parts = {"depthwise": nn.Conv2d(4, 4, 3, groups=4, bias=False), "pointwise": nn.Conv2d(4, 6, 1)}
    one, two = net(nn.Conv2d(4, 6, 3)), net(nn.ModuleDict(parts))
    assert "stem.pointwise.bias" not in sure(tg.plan(two, one.state_dict()))
    assert "stem.bias" not in sure(tg.plan(one, two.state_dict()))


def test_a_bias_of_one_block_fills_no_gap_of_another() -> None:
    state = filled(encoder(4)).state_dict()
    file = {name: value for name, value in state.items() if name not in ("blocks.0.fc.bias", "blocks.2.norm.weight")}
    placed = sure(tg.plan(encoder(3), file))
    assert all(name == key for name, key in placed.items())
    assert len(placed) == len(encoder(3).state_dict()) - 2
