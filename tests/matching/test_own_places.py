"""What names and the like of a tensor in other blocks say of its place: shapes that fit elsewhere send nothing there."""

from __future__ import annotations

import copy

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


def sure(model: nn.Module, file: dict[str, torch.Tensor]) -> dict[str, str]:
    plan = tg.plan(model, file, on_doubt="take")
    return {s.slot.name: s.feeds[0].key for s in plan.steps if s.feeds and s.certainty is not Certainty.DOUBT}


def net(**parts: nn.Module) -> nn.Module:
    return filled(nn.ModuleDict(parts))


def member(hidden: int = 7, inner: int = 7) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(inner, 3))


@pytest.mark.parametrize("first", [member(14, 7), nn.Sequential(nn.ReLU(), nn.Linear(7, 3))], ids=["wider", "cut"])
@pytest.mark.parametrize("back", [False, True])
def test_members_of_an_ensemble_do_not_move_on_for_one_that_was_changed(first: nn.Module, *, back: bool) -> None:
    changed = net(members=nn.ModuleList([first, *(member() for _ in range(3))]), mix=nn.Linear(4, 1))
    plain = net(members=nn.ModuleList([member() for _ in range(3)]), mix=nn.Linear(3, 1))
    model, file = (changed, plain) if back else (plain, changed)
    assert all(name == key for name, key in sure(model, file.state_dict()).items())


def test_a_block_of_another_build_in_front_still_moves_the_others_on() -> None:
    other = nn.ModuleDict({"down": nn.Linear(9, 2), "up": nn.Linear(2, 9)})
    model = net(members=nn.ModuleList([other, *(member() for _ in range(3))]))
    placed = sure(model, net(members=nn.ModuleList([member() for _ in range(3)])).state_dict())
    assert placed["members.1.0.weight"] == "members.0.0.weight"
    assert len(placed) == 12


def block(width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"norm": nn.LayerNorm(width), "up": nn.Linear(width, 9), "down": nn.Linear(9, width)})


def test_the_copy_of_a_list_has_no_block_for_the_list_that_grew() -> None:
    def stages(*depths: int) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(*(block(4 * (at + 1)) for _ in range(depth))) for at, depth in enumerate(depths)
        )

    file = net(stem=nn.Linear(3, 4), stages=stages(1, 1), head=nn.Linear(8, 5), stages_new=stages(1, 1))
    placed = sure(net(stem=nn.Linear(3, 4), stages=stages(1, 2), head=nn.Linear(8, 5)), file.state_dict())
    assert placed["stages.1.0.up.weight"] == "stages.1.0.up.weight"
    assert not any(key.startswith("stages_new") for key in placed.values())


def test_the_last_norm_is_not_the_first_one_of_a_block_that_was_added() -> None:
    def features(depth: int, dense: str, norm: str) -> nn.ModuleDict:
        layers = {
            f"layer{at + 1}": nn.ModuleDict(
                {"norm1": nn.BatchNorm2d(6 + 4 * at), "conv1": nn.Conv2d(6 + 4 * at, 8, 1), "conv2": nn.Conv2d(8, 4, 3)}
            )
            for at in range(depth)
        }
        return nn.ModuleDict(
            {"conv0": nn.Conv2d(3, 6, 3), dense: nn.ModuleDict(layers), norm: nn.BatchNorm2d(6 + 4 * depth)}
        )

    file = net(features=features(3, "dense", "norm5"), head=nn.Linear(18, 5)).state_dict()
    placed = sure(net(features=features(4, "module0", "batchnorm1"), head=nn.Linear(22, 5)), file)
    assert "features.norm5.weight" not in placed.values()
    assert placed["features.module0.layer2.norm1.weight"] == "features.dense.layer2.norm1.weight"


@pytest.mark.parametrize("wrapper", ["", "_checkpoint_wrapped_module."])
def test_a_layer_is_not_the_first_of_several_behind_a_wrapper_either(wrapper: str) -> None:
    def backbone(conv: nn.Module) -> nn.ModuleDict:
        body = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        return nn.ModuleDict({"conv1": conv, "bn1": nn.BatchNorm2d(4), "layer1": body})

    deep = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False))
    file = net(backbone=backbone(nn.Conv2d(3, 4, 3, bias=False)), head=nn.Linear(8, 2)).state_dict()
    file = {name.replace("backbone.", f"backbone.{wrapper}"): value for name, value in file.items()}
    placed = sure(net(backbone=backbone(deep), head=nn.Linear(8, 2)), file)
    assert "backbone.conv1.0.weight" not in placed
    assert "backbone.layer1.0.weight" in placed


def test_norms_beside_layers_that_are_counted_from_one_are_as_unsure_as_these() -> None:
    def convs(depth: int) -> nn.Module:
        layers = [
            nn.ModuleDict({"lin": nn.Linear(5 if at == 0 else 8, 8), "att": nn.Linear(8, 1)}) for at in range(depth)
        ]
        norms = nn.ModuleList(nn.BatchNorm1d(8) for _ in range(depth))
        return net(convs=nn.ModuleList(layers), norms=norms, out=nn.Linear(8, 3))

    file = {
        ".".join(str(int(part) + 1) if part.isdecimal() else part for part in name.split(".")): value
        for name, value in convs(3).state_dict().items()
    }
    assert not any(name.startswith("norms") for name in sure(convs(4), file))


def test_a_part_that_was_changed_keeps_its_name_before_the_copy_of_it() -> None:
    def blocks() -> nn.ModuleList:
        return nn.ModuleList(nn.ModuleDict({"cross": block(6), "own": block(8)}) for _ in range(3))

    file = net(blocks=blocks()[:2], out=nn.Linear(8, 3)).state_dict()
    changed = blocks()
    changed[1]["cross2"] = changed[1].pop("cross")
    placed = sure(net(blocks=changed, out=nn.Linear(8, 3), blocks_aux=copy.deepcopy(blocks())), file)
    assert not any(name.startswith("blocks_aux") for name in placed)
    assert placed["blocks.0.cross.up.weight"] == "blocks.0.cross.up.weight"


def test_what_was_added_under_a_longer_name_takes_nothing_from_what_keeps_the_name() -> None:
    first, head = nn.Conv2d(3, 4, 3), nn.Linear(8, 5)
    file = net(conv_in=first, body=nn.Linear(8, 8), cls=head).state_dict()
    stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    heads = nn.ModuleDict({"cls": nn.ModuleDict({"old": copy.deepcopy(head), "new": nn.Linear(8, 2)})})
    model = net(
        conv_in=stem, body=nn.Linear(8, 8), conv_in_aux=copy.deepcopy(first), aux_cls=nn.Sequential(head), heads=heads
    )
    placed = sure(model, file)
    assert not any("aux" in name for name in placed)
    assert placed["body.weight"] == "body.weight"


def tower() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"emb": nn.Embedding(9, 6), "fc1": nn.Linear(6, 6), "fc2": nn.Linear(6, 6), "norm": nn.LayerNorm(6)}
    )


def test_a_tower_that_was_deleted_does_not_fill_the_copy_of_the_one_that_stayed() -> None:
    file = net(temp=nn.Linear(2, 2), user_tower=tower(), item_tower=tower()).state_dict()
    other = tower()
    other["proj"] = nn.Linear(6, 7)
    placed = sure(net(temp=nn.Linear(2, 2), user_tower=tower(), user_tower_aux=other), file)
    assert placed["user_tower.emb.weight"] == "user_tower.emb.weight"
    assert not any(key.startswith("item_tower") for key in placed.values())


def test_of_two_parts_that_differ_in_axes_of_size_one_neither_is_chosen() -> None:
    def part(*shape: int) -> nn.Module:
        layers = tower()
        layers.scale = nn.Parameter(torch.zeros(*shape))
        return layers

    model = filled(nn.ModuleDict({"backbone": part(1, 1, 6), "backbone_aux": part(6)}))
    plan = tg.plan(model, filled(part(6)).state_dict())
    assert [objection.kind for objection in plan.refusals] == ["container"]


def test_one_layer_of_an_added_block_of_two_is_not_the_head_of_its_shape() -> None:
    def convs(*more: nn.Module) -> nn.ModuleDict:
        blocks = [nn.ModuleDict({"lin": nn.Linear(8, 8, bias=False), "att": nn.Linear(8, 2)}) for _ in range(3)]
        return nn.ModuleDict({f"h{at}": block for at, block in enumerate((*blocks, *more))})

    added = nn.ModuleDict({"down": nn.Linear(8, 3), "up": nn.Linear(3, 8)})
    model = net(convs=nn.ModuleList(convs().values()), mlp=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))
    placed = sure(model, filled(convs(added)).state_dict())
    assert not any(name.startswith("mlp") for name in placed)


def blocks(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleDict({"norm": nn.LayerNorm(6), "fc": nn.Linear(6, 12)}) for _ in range(count))


def apart(vision: int, text: int) -> dict[str, nn.Module]:
    return {
        "vision_tower": nn.ModuleDict({"blocks": blocks(vision)}),
        "language_model": nn.ModuleDict({"layers": blocks(text)}),
    }


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_lists_do_not_change_places_because_their_lengths_would_fit_better(*, wrapped: bool, back: bool) -> None:
    """More tensors are placed by rules that exchange the lists than by those that leave each where its name is."""
    head = nn.Linear(6, 3)
    longer = net(model=nn.ModuleDict(apart(2, 4)), head=head) if wrapped else net(**apart(2, 4))
    shorter = {"vision_tower": nn.ModuleDict({"blocks": blocks(4)}), "layers": blocks(2)}
    plain = net(**shorter, head=copy.deepcopy(head)) if wrapped else net(**shorter)
    model, file = (longer, plain) if back else (plain, longer)
    placed = sure(model, file.state_dict())
    assert all(("vision" in name) == ("vision" in key) for name, key in placed.items())


def test_weight_and_bias_of_a_layer_have_one_reason() -> None:
    """One of the middle layers is called as the first one of the file, as in the two code bases of Segment Anything."""
    first, inner, last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
    apart = nn.ModuleDict({"proj_in": first, "proj_out": last, "layers": nn.ModuleList([inner])})
    listed = nn.ModuleDict({"layers": nn.ModuleList([first, inner, last])})
    model, file = filled(net(mlp=apart)), filled(net(mlp=listed))
    with pytest.raises(tg.PlanRefusedError) as refused:
        tg.load(model, file.state_dict())
    lines = [line for line in str(refused.value).splitlines() if "layers.0, too" in line]
    assert len(lines) == 1
    assert "mlp.proj_in.{weight,bias}" in lines[0]


@pytest.mark.parametrize("is_sorted", [False, True])
def test_a_counter_goes_with_its_layer_whatever_else_the_file_calls_by_the_end_of_its_name(*, is_sorted: bool) -> None:
    """`layers.2.0.layers.1` went to `0.2.0.layers.1`, and its counter was asked about: the file has a `layers.1`, too."""

    def block(width: int) -> nn.Module:
        rest = nn.Sequential(
            nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8)
        )
        return nn.ModuleDict({"layers": rest})

    def layers() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *(nn.Sequential(*(block(12) for _ in range(2))) for _ in range(3))
        )

    model, state = filled(nn.Sequential(layers())), net(layers=layers(), head=nn.Linear(8, 3)).state_dict()
    plan = tg.plan(model, dict(sorted(state.items())) if is_sorted else state)
    assert not plan.refusals
    assert all(step.feeds[0].key == f"layers{slot[1:]}" for slot, step in plan.by_slot.items())
