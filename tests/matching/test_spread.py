"""What the file holds once and the model has in every block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 8


def embedder(numbered: bool) -> nn.Module:  # noqa: FBT001
    layers = [nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH)]
    if not numbered:
        return nn.ModuleDict({"proj_in": layers[0], "proj_out": layers[1]})
    return nn.Sequential(layers[0], nn.SiLU(), layers[1])


def block(mix: str = "mix", norm: str = "norm", *, own: bool) -> nn.ModuleDict:
    parts = {mix: nn.Linear(WIDTH, 2 * WIDTH), norm: nn.LayerNorm(WIDTH)}
    if own:
        parts["time"] = nn.ModuleDict({"linear_1": nn.Linear(6, WIDTH), "linear_2": nn.Linear(WIDTH, WIDTH)})
    return nn.ModuleDict(parts)


@pytest.mark.parametrize("numbered", [True, False])
def test_layers_before_the_blocks_go_to_every_block(numbered: bool) -> None:  # noqa: FBT001
    source = nn.ModuleDict({
        "time_embed": embedder(numbered), "blocks": nn.ModuleList(block(own=False) for _ in range(2)),
    })  # fmt: skip
    target = nn.ModuleDict({"transformer_layers": nn.ModuleList(block("ff", "ln", own=True) for _ in range(2))})
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    assert not plan.fresh
    first, second = (source["time_embed"][n] for n in ((0, 2) if numbered else ("proj_in", "proj_out")))
    for ours in target["transformer_layers"]:
        assert torch.equal(ours["time"]["linear_1"].weight, first.weight)
        assert torch.equal(ours["time"]["linear_2"].weight, second.weight)
    copies = [s for s in plan.steps if s.slot.name.startswith("transformer_layers.1.time.")]
    assert {s.why.rule for s in copies} == {"shared"}
    assert Certainty.CERTAIN not in {s.certainty for s in copies}


def test_one_member_of_a_list_may_be_shared_or_the_list_is_shorter() -> None:
    source = nn.ModuleDict({"stem": nn.Linear(3, WIDTH), "layer": nn.ModuleList([block(own=True)])})
    target = nn.ModuleDict({"stem": nn.Linear(3, WIDTH), "blocks": nn.ModuleList(block(own=True) for _ in range(3))})
    with pytest.raises(tg.PlanRefusedError, match="it may be shared by all, or the list is shorter"):
        tg.load(target, source.state_dict())
    tg.load(target, source.state_dict(), on_doubt="take")
    for ours in target["blocks"]:
        assert torch.equal(ours["mix"].weight, source["layer"][0]["mix"].weight)


def test_a_list_of_the_file_that_is_the_models_list_is_not_copied_to_what_lies_behind_its_end() -> None:
    source = nn.ModuleDict({"layer": nn.ModuleList(block(own=True) for _ in range(2))})
    target = nn.ModuleDict({"blocks": nn.ModuleList(block(own=True) for _ in range(4))})
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    assert {s.slot.name.split(".")[1] for s in plan.fresh} == {"2", "3"}


def test_a_list_that_is_shorter_under_its_own_name_leaves_the_rest_fresh() -> None:
    source = nn.ModuleDict({"body": nn.ModuleDict({"blocks": nn.ModuleList([block(own=True)]), "fc": nn.Linear(2, 3)})})
    target = nn.ModuleDict({"blocks": nn.ModuleList(block(own=True) for _ in range(3)), "head": nn.Linear(2, 5)})
    report = tg.load(target, source.state_dict())
    assert torch.equal(target["blocks"][0]["norm"].weight, source["body"]["blocks"][0]["norm"].weight)
    assert {s.slot.name.rpartition(".")[0] for s in report.plan.fresh} >= {"blocks.1.norm", "blocks.2.norm", "head"}


def test_the_bias_of_one_layer_is_not_that_of_all_others_of_its_row() -> None:
    def row(width: int) -> nn.Sequential:
        layers = [nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3), nn.Linear(width, 16), nn.Linear(16, 4)]
        return nn.Sequential(*layers)

    file = {f"encoder.{key}": value for key, value in row(6).state_dict().items()}
    plan = tg.plan(row(4), file, min_coverage=0.0)
    assert not [s for s in plan.steps if s.why.rule == "shared"]


def test_norms_with_numbers_do_not_hide_that_their_block_has_one() -> None:
    def layer() -> nn.ModuleDict:
        return nn.ModuleDict({"norm1": nn.LayerNorm(WIDTH), "mix": nn.Linear(WIDTH, 20), "norm2": nn.LayerNorm(WIDTH)})

    file = nn.ModuleDict({"layer": nn.ModuleList([layer()])}).state_dict()
    model = nn.ModuleDict({"blocks": nn.ModuleList(layer() for _ in range(3))})
    copies = [s for s in tg.plan(model, file).steps if s.why.rule == "shared"]
    assert copies
    assert {s.certainty for s in copies} == {Certainty.DOUBT}


def test_a_bias_goes_to_no_norm_behind_its_layer() -> None:
    """The norms of the file are of another width, so that the model's stay free: a list of a layer and its norm is no list of layers."""
    source = nn.ModuleDict({"stem": nn.Conv2d(3, WIDTH, 3), "reduce": nn.Conv2d(WIDTH, 2 * WIDTH, 1)})
    target = nn.ModuleDict({
        "stem": nn.Conv2d(3, WIDTH, 3), "down": nn.Sequential(nn.Conv2d(WIDTH, 2 * WIDTH, 1), nn.BatchNorm2d(2 * WIDTH)),
    })  # fmt: skip
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    feeds = {step.slot.name: [feed.key for feed in step.feeds] for step in plan.steps}
    assert feeds["down.0.weight"] == ["reduce.weight"]
    assert feeds["down.1.bias"] == []
