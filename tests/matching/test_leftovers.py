"""Tensors left of modules of which others were paired."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.plan import Certainty, Why
from torchgraft.matching.completing.leftovers import with_leftovers


class Tied(nn.Module):
    """A language model whose head is its embedding, with a bias of its own."""

    def __init__(self, bias):
        super().__init__()
        self.body = nn.ModuleDict({"embed": nn.Embedding(30, 6), "fc": nn.Linear(6, 6), "norm": nn.LayerNorm(6)})
        self.predict = nn.Module()
        self.predict.dense = nn.Linear(6, 6)
        setattr(self.predict, bias, nn.Parameter(torch.randn(30)))


def untied():
    return {
        "body.fc.weight": torch.randn(6, 6), "body.fc.bias": torch.randn(6),
        "body.norm.weight": torch.randn(6), "body.norm.bias": torch.randn(6), "top.dense.weight": torch.randn(6, 6),
        "top.dense.bias": torch.randn(6), "top.decoder.weight": torch.randn(30, 6), "top.decoder.bias": torch.randn(30),
    }  # fmt: skip


def test_a_bias_without_its_weight_goes_where_what_is_beside_it_goes():
    file, model = untied(), Tied("shift")
    report = tg.load(model, file, on_doubt="take")
    assert torch.equal(model.predict.shift, file["top.decoder.bias"])
    assert report.plan.by_slot["predict.shift"].certainty is not Certainty.CERTAIN


def router(bias):
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(4, 6))
    setattr(module, bias, nn.Parameter(torch.randn(4)))
    return module


@pytest.mark.parametrize("back", [False, True])
def test_each_block_gets_its_own(back):
    def stack(name, bias):
        return nn.ModuleDict({name: nn.ModuleList(nn.ModuleDict({"gate": router(bias)}) for _ in range(3))})

    source, target = stack("layers", "bias"), stack("blocks", "score_correction")
    if back:
        source, target = target, source
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    ours, theirs = (next(iter(model.values())) for model in (source, target))
    for a, b in zip(ours, theirs, strict=True):
        assert [torch.equal(x, y) for x, y in zip(a["gate"].parameters(), b["gate"].parameters(), strict=True)] == [
            True
        ] * 2
    last = [step for step in plan.steps if step.slot.name.endswith(("bias", "correction"))]
    assert {step.certainty for step in last} == {Certainty.LIKELY}


def leaf(name, *shape):
    return Leaf(name=name, shape=shape, dtype=DType.F32, keys=(name,))


def test_several_that_fit_as_well_are_doubt_and_two_places_are_left_alone():
    pair = Match(target=leaf("a.x.weight", 4, 2), source=leaf("b.x.weight", 4, 2), why=Why("name", ""))
    sources = (leaf("b.x.bias", 4), leaf("b.x.shift", 4))
    found = with_leftovers(Matching(matches=(pair,), free_targets=(leaf("a.x.offset", 4),), free_sources=sources))
    assert [m.certainty for m in found.matches] == [Certainty.CERTAIN, Certainty.DOUBT]
    both = (leaf("a.x.offset", 4), leaf("a.x.more", 4))
    found = with_leftovers(Matching(matches=(pair,), free_targets=both, free_sources=sources))
    assert found.matches == (pair,)


def test_what_is_called_otherwise_is_no_bias():
    pair = Match(target=leaf("a.x.weight", 4, 2), source=leaf("b.x.weight", 4, 2), why=Why("name", ""))
    places = [
        (leaf("b.x.bias", 4), leaf("a.x.mean", 4)),
        (leaf("b.x.bias", 4), replace(leaf("a.x.anchor", 4), is_buffer=True)),
    ]
    for source, target in places:
        found = with_leftovers(Matching(matches=(pair,), free_targets=(target,), free_sources=(source,)))
        assert found.matches == (pair,)
    likewise = replace(leaf("a.x.correction_bias", 4), is_buffer=True)
    found = with_leftovers(Matching(matches=(pair,), free_targets=(likewise,), free_sources=(leaf("b.x.bias", 4),)))
    assert found.matches[1].certainty is Certainty.LIKELY


class Layers(nn.Module):
    def __init__(self, norm, linear, *, biased):
        super().__init__()
        self.add_module(norm, nn.LayerNorm(8, bias=biased == norm))
        self.add_module(linear, nn.Linear(8, 8, bias=biased == linear))


@pytest.mark.parametrize("names", [("norm", "proj"), ("norm", "out"), ("ln", "out")])
def test_a_bias_is_not_left_over_for_a_layer_of_which_the_rest_went_elsewhere(names):
    file = nn.ModuleList(Layers("norm", "proj", biased="norm") for _ in range(2)).state_dict()
    plan = tg.plan(nn.ModuleList(Layers(*names, biased=names[1]) for _ in range(2)), file, on_doubt="take")
    found = {step.slot.name: step.feeds[0].key for step in plan.steps if step.feeds}
    assert found == {
        f"{n}.{own}.weight": f"{n}.{its}.weight"
        for n in (0, 1)
        for own, its in zip(names, ("norm", "proj"), strict=True)
    }
