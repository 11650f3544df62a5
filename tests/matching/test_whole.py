"""Fused tensors of one name that go over whole: as sure as it is that both sides come from the same code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 8


class Conv1D(nn.Module):
    """A layer that stores its matrix [in, out], as GPT-2's do."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(columns, rows)), nn.Parameter(torch.randn(rows))


class Whole(nn.Module):
    """Attention with fused queries, keys and values."""

    def __init__(self, layer: type[nn.Module], heads: int | None, rows: int = 3 * WIDTH) -> None:
        super().__init__()
        if heads is not None:
            self.n_head = heads
        sizes = [(rows, WIDTH), (WIDTH, WIDTH)]
        made = [layer(*size) if layer is Conv1D else layer(*reversed(size)) for size in sizes]
        self.c_attn, self.c_proj = made


class OtherWhole(Whole):
    """The same names and shapes in another library."""


def net(kind: type[Whole] = Whole, layer: type[nn.Module] = nn.Linear, heads: int | None = 2, **rows: int) -> nn.Module:
    h = nn.ModuleList(nn.ModuleDict({"attn": kind(layer, heads, **rows), "fc": layer(WIDTH, WIDTH)}) for _ in range(2))
    return nn.ModuleDict({"h": h})


def how_sure(plan: tg.Plan) -> set[Certainty]:
    return {step.certainty for step in plan.steps if ".c_attn." in step.slot.name}


def test_the_same_names_and_shapes_are_one_code() -> None:
    assert how_sure(tg.plan(net(), net().state_dict())) == {Certainty.CERTAIN}
    assert how_sure(tg.plan(net(), net())) == {Certainty.CERTAIN}


def test_a_source_of_another_class_may_pack_its_parts_otherwise() -> None:
    plan = tg.plan(net(), net(OtherWhole))
    assert how_sure(plan) == {Certainty.LIKELY}
    assert "head by head" in plan.by_slot["h.0.attn.c_attn.weight"].why.text


@pytest.mark.parametrize("heads", [2, None])
def test_a_matrix_that_is_stored_the_other_way_round_comes_from_other_code(heads: int | None) -> None:
    source, target = net(layer=Conv1D), net(heads=heads)
    plan = tg.load(target, source.state_dict()).plan
    assert how_sure(plan) == {Certainty.LIKELY}
    for ours, theirs in zip(source["h"], target["h"], strict=True):
        assert torch.equal(theirs["attn"].c_attn.weight, ours["attn"].c_attn.weight.T)
        assert torch.equal(theirs["attn"].c_proj.weight, ours["attn"].c_proj.weight.T)


def test_with_one_head_there_is_nothing_to_doubt() -> None:
    assert how_sure(tg.plan(net(heads=1), net(layer=Conv1D))) == {Certainty.CERTAIN}


@pytest.mark.parametrize("layer", [nn.Linear, Conv1D])
def test_one_head_for_keys_and_values_is_not_cut_or_stretched_to_many(layer: type[nn.Module]) -> None:
    source, target = net(layer=layer, rows=2 * WIDTH), net()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    report = tg.load(target, source.state_dict(), on_doubt="take")
    assert {s.slot.name for s in report.plan.fresh} == {k for k in before if ".c_attn." in k}
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items() if ".c_attn." in k)
    assert "c_attn" in str(report)


def test_a_stated_layout_settles_it() -> None:
    source, target = net(layer=Conv1D), net()
    plan = tg.load(target, source.state_dict(), qkv_layout="flat").plan
    assert how_sure(plan) == {Certainty.CERTAIN}
    assert torch.equal(target["h"][1]["attn"].c_attn.weight, source["h"][1]["attn"].c_attn.weight.T)


@pytest.mark.parametrize("turned", [False, True])
def test_square_matrices_are_stored_as_those_that_find_no_place_show(turned: bool) -> None:  # noqa: FBT001
    source = net(layer=Conv1D if turned else nn.Linear, rows=2 * WIDTH)
    target = net()
    tg.load(target, source.state_dict(), on_doubt="take")
    for ours, theirs in zip(source["h"], target["h"], strict=True):
        assert torch.equal(theirs["fc"].weight, ours["fc"].weight.T if turned else ours["fc"].weight)
