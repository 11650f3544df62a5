"""Branches of equal width: modules move as a whole, shapes alone teach, lists are also counted in letters."""

import numpy as np
import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.parts.units import group
from torchgraft.matching.solving.exchanges import modules_together


def layer(width, out, size=1):
    return nn.ModuleDict({"conv": nn.Conv2d(width, out, size, bias=False), "bn": nn.BatchNorm2d(out)})


# Widths of the narrow branch, of the reduction before the wide one, and of the wide one, block by block: equal in one.
WIDTHS = ((4, 6, 8), (8, 8, 10), (6, 10, 12), (10, 12, 14))


def by_branch(members):
    """Branch by branch, in blocks counted in letters."""
    blocks, width = {}, 3
    for name, (narrow, reduced, wide) in zip(members, WIDTHS, strict=True):
        blocks[name] = nn.ModuleDict(
            {"branch1": layer(width, narrow), "branch2": nn.Sequential(layer(width, reduced), layer(reduced, wide, 3))}
        )
        width = narrow + wide
    return filled(nn.ModuleDict(blocks))


def by_kind(members):
    """Reductions first, then what they lead to."""
    blocks, width = {}, 3
    for name, (narrow, reduced, wide) in zip(members, WIDTHS, strict=True):
        blocks[name] = nn.ModuleDict(
            {"b3_reduce": layer(width, reduced), "b1": layer(width, narrow), "b3": layer(reduced, wide, 3)}
        )
        width = narrow + wide
    return filled(nn.ModuleDict(blocks))


PARTS = {"branch1": "b1", "branch2.0": "b3_reduce", "branch2.1": "b3"}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("members", ["mixed4a mixed4b mixed4c mixed4d", "mixed0 mixed1 mixed2 mixed3"])
def test_blocks_whose_shapes_differ_tell_which_branch_is_which_where_they_are_equal(members, turned):
    ours, theirs = by_branch(members.split()), by_kind(members.replace("mixed", "inc").split())
    source, target = (theirs, ours) if turned else (ours, theirs)
    tg.load(target, source.state_dict(), on_doubt="take")
    there = theirs.state_dict()
    for name, value in ours.state_dict().items():
        block, part, role = (
            name.split(".", 1)[0],
            *next((new, name.split(f".{old}.")[1]) for old, new in PARTS.items() if f".{old}." in name),
        )
        assert torch.equal(value, there[f"{block.replace('mixed', 'inc')}.{part}.{role}"]), name


@pytest.mark.parametrize("loss", [0.2, 1.0])
def test_a_norm_goes_where_the_convolution_beside_it_goes(loss):
    def units(first, second):
        shapes = {"weight": (5, 6, 1, 1)}, {"weight": (5,), "bias": (5,)}, {"weight": (5, 7, 1, 1)}
        named = {
            f"{first}.conv": shapes[0],
            f"{first}.bn": shapes[1],
            f"{second}.conv": shapes[2],
            f"{second}.bn": shapes[1],
        }
        leaves = [
            Leaf(name=f"{path}.{role}", shape=shape, dtype=DType.F32, keys=(f"{path}.{role}",), order=at)
            for at, (path, roles) in enumerate(named.items())
            for role, shape in roles.items()
        ]
        return group(leaves)

    sources, targets = units("a1", "a2"), units("end", "start")
    scores, rare = np.full((4, 4), -9.0), np.eye(4)
    scores[np.eye(4, dtype=bool)] = 2.0
    scores[1, 3] = scores[3, 1] = 2.0 + loss
    rare[1::2, 1::2] = 0.5
    whole = [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert modules_together([(0, 0), (1, 3), (2, 2), (3, 1)], scores, rare, sources, targets) == (
        whole if loss < 0.7 else [(0, 0), (1, 3), (2, 2), (3, 1)]
    )
    assert modules_together(whole, scores, rare, sources, targets) == whole


class Linear(nn.Module):
    """A projection named as fused q, k, v are, of which two parts are as wide as the input and one is a number."""

    def __init__(self, inner):
        super().__init__()
        projection = nn.Conv2d(8, 17, 1)
        self.qkv_proj = nn.ModuleDict({"convolution": projection}) if inner else projection
        self.out_proj = nn.Conv2d(8, 8, 1)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("parts", [17, 18])
def test_what_is_fused_on_both_sides_under_other_names_stays_whole(inner, parts):
    def net(inner):
        blocks = nn.ModuleList([nn.ModuleDict({"attn": Linear(inner)}) for _ in range(2)])
        for block in blocks:
            projection = nn.Conv2d(8, parts, 1)
            block["attn"].qkv_proj = nn.ModuleDict({"convolution": projection}) if inner else projection
        return filled(blocks)

    source, target = net(inner), net(not inner)
    tg.load(target, source.state_dict())
    flat = {name.replace(".convolution", ""): value for name, value in source.state_dict().items()}
    for name, value in target.state_dict().items():
        assert torch.equal(value, flat[name.replace(".convolution", "")]), name


def test_a_layer_alone_in_a_list_belongs_to_the_module_around_the_list():
    names = [
        "mid.attn.norm.weight",
        "mid.attn.to_q.weight",
        "mid.attn.to_out.0.weight",
        "mid.norm.weight",
        "head.weight",
    ]
    leaves = [Leaf(name=name, shape=(4, 4), dtype=DType.F32, keys=(name,), order=at) for at, name in enumerate(names)]
    homes = {unit.path: unit.home for unit in group(leaves)}
    assert homes["mid.attn.to_out.0"] == homes["mid.attn.to_q"] == "mid.attn"
    assert homes["mid.norm"] == "mid"
    assert homes["head"] == ""
