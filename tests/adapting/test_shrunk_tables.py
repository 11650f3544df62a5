"""Tables of tokens that lack a few rows: in doubt, with the remedy; names of one convention for rotary rows on each side."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

ROWS = 64


def language(rows: int) -> nn.ModuleDict:
    return nn.ModuleDict({
        "embed_tokens": nn.Embedding(rows, 8), "mix": nn.Linear(8, 8), "lm_head": nn.Linear(8, rows, bias=False),
    })  # fmt: skip


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS - ROWS // 16])
def test_a_few_rows_less_are_in_doubt(rows: int) -> None:
    model, file = language(rows), language(ROWS)
    with pytest.raises(
        tg.PlanRefusedError, match=rf"no row for the last {ROWS - rows}; make its table {ROWS} rows long"
    ):
        tg.load(model, file)
    tg.load(model, file, on_doubt="take")
    assert torch.equal(model["embed_tokens"].weight, file["embed_tokens"].weight[:rows])


@pytest.mark.parametrize("head", [True, False])
def test_an_output_layer_that_lacks_as_many_rows_tells_a_table_of_any_name(head: bool) -> None:  # noqa: FBT001
    def net(rows: int) -> nn.ModuleDict:
        out = nn.Linear(8, rows if head else 5, bias=False)
        return nn.ModuleDict({"lookup": nn.Embedding(rows, 8), "mix": nn.Linear(8, 80), "out": out})

    model, file = net(ROWS - 1), net(ROWS)
    if not head:
        assert tg.plan(model, file).by_name["lookup.weight"].certainty is Certainty.CERTAIN, "fresh, as any other table"
        return
    with pytest.raises(tg.PlanRefusedError, match=rf"make its table {ROWS} rows long"):
        tg.load(model, file)
    tg.load(model, file, on_doubt="take")
    assert torch.equal(model["lookup"].weight, file["lookup"].weight[:-1])
    assert torch.equal(model["out"].weight, file["out"].weight[:-1])


def test_many_rows_less_are_another_vocabulary() -> None:
    plan = tg.plan(language(ROWS - ROWS // 16 - 1), language(ROWS))
    assert not plan.by_name["embed_tokens.weight"].feeds
    assert plan.by_name["embed_tokens.weight"].certainty is Certainty.CERTAIN


def test_the_printed_remedy_works() -> None:
    model, file = language(ROWS - 2), language(ROWS)
    names = tg.AxisNames(range(ROWS), range(ROWS - 2))
    report = tg.load(model, file, axis_names={"embed_tokens": names, "lm_head": names})
    assert not report.plan.doubtful
    assert torch.equal(model["lm_head"].weight, file["lm_head"].weight[: ROWS - 2])


@pytest.mark.parametrize("way", [("wq", "q_proj"), ("k_proj", "wk")])
def test_names_of_two_rotary_conventions_are_not_certain(way: tuple[str, str]) -> None:
    ours, theirs = way
    plan = tg.plan(nn.ModuleDict({theirs: nn.Linear(8, 8)}), nn.ModuleDict({ours: nn.Linear(8, 8)}))
    assert plan.by_name[f"{theirs}.weight"].certainty is not Certainty.CERTAIN
    assert any(objection.kind == "rotary" for objection in plan.warnings)


def test_doubt_without_a_reading_names_what_helps() -> None:
    plain = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 2, 3))
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv1d(2, 4, 3)), nn.Conv1d(4, 2, 3))
    (refusal,) = tg.plan(model, plain).refusals
    assert "<- nothing" not in refusal.text
    assert "fill the model before the norm is put on" in refusal.text
    assert "on_doubt='take'" not in refusal.text
    tg.load(model, plain, on_doubt="skip")
    assert torch.equal(model[1].weight, plain[1].weight)


class Grid(nn.Module):
    """An embedding of image patches with one token before them."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, rows, 4))
        self.patch_embed = nn.Conv2d(3, 4, 2, 2)


def test_positions_in_no_square_are_told_apart_and_the_remedy_works() -> None:
    model, file = Grid(13), Grid(197)
    with pytest.raises(
        tg.PlanRefusedError, match=r"14x14 behind 1 row and the model 12 positions in no square behind 1 row"
    ):
        tg.load(model, file)
    tg.load(model, file, grids={"pos_embed": ((14, 14), (3, 4))})
    assert torch.equal(model.pos_embed[:, 0], file.pos_embed[:, 0])
