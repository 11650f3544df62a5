"""What tells layers of a block apart: from where lists count, and which way matrices lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import TensorSpec
from torchgraft.matching.evidence.scores import gather
from torchgraft.matching.judging.rivals import rivals_of
from torchgraft.matching.parts.leaves import source_leaves
from torchgraft.matching.parts.units import group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchgraft.matching.parts.units import Unit

WIDTH = 16


def block(names: Sequence[str], layers: Sequence[nn.Module]) -> nn.Module:
    """Return a module of named layers."""
    return nn.ModuleDict(dict(zip(names, layers, strict=True)))


def attentions(inside: str, *others: str, count: int = 4) -> list[nn.Module]:
    """Return blocks of an attention that is called `inside`, and two layers."""
    return [
        nn.ModuleDict(
            {
                inside: block(("qkv", "proj"), (nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH))),
                **dict(zip(others, (nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)), strict=True)),
            }
        )
        for _ in range(count)
    ]


def test_equal_numbers_are_not_the_same_layer_where_one_side_counts_from_one() -> None:
    new = nn.ModuleDict({"blocks": nn.ModuleList(attentions("attn", "fc1", "fc2"))})
    counted = nn.ModuleDict({str(at + 1): one for at, one in enumerate(attentions("mha", "lin1", "lin2"))})
    saved = nn.ModuleDict({"resblocks": counted}).state_dict()
    plan = tg.load(new, saved, on_doubt="take").plan
    for at in range(4):
        step = plan.by_slot[f"blocks.{at}.attn.qkv.weight"]
        assert [f.key for f in step.feeds] == [f"resblocks.{at + 1}.mha.qkv.weight"]
        assert step.certainty is Certainty.CERTAIN
    assert torch.equal(new["blocks"][3]["fc1"].weight, saved["resblocks.4.lin1.weight"])


def mlps(*names: str) -> nn.Module:
    """Return three blocks of a layer to thrice the width, one to four times, and one back from there."""
    sizes = ((WIDTH, 3 * WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
    blocks = [block(names, [nn.Linear(a, b, bias=False) for a, b in sizes]) for _ in range(3)]
    return nn.ModuleDict({"h": nn.ModuleList(blocks)})


@pytest.mark.parametrize(
    ("turned", "sure"), [("", Certainty.CERTAIN), (".x", Certainty.DOUBT), (".x.y.z", Certainty.DOUBT)]
)
def test_a_matrix_that_lies_as_in_the_model_shows_that_others_are_not_turned(turned: str, sure: Certainty) -> None:
    saved = mlps("x", "y", "z").state_dict()
    file = {key: v.T.contiguous() if key.split(".")[2] in turned else v for key, v in saved.items()}
    plan = tg.plan(mlps("one", "two", "three"), file)
    assert {plan.by_slot[f"h.1.{name}.weight"].certainty for name in ("two", "three")} == {sure}


def units(*names: str) -> list[Unit]:
    specs = {f"{name}.weight": TensorSpec(f"{name}.weight", (WIDTH, WIDTH), DType.F32) for name in names}
    return group(source_leaves(specs)[0])


@pytest.mark.parametrize(("other", "is_rival"), [("3.layers.0.0.2", True), ("3.layers.0.0.q", False)])
def test_a_rival_whose_name_is_a_number_is_not_told_apart_by_words(other: str, *, is_rival: bool) -> None:
    ours = units("0.attention.o_proj", other, "3.layers.0.1", "3.layers.1.0.2", "3.layers.1.1", "4.head")
    theirs = units("layers.0.self_attn.out_proj", "layers.1.self_attn.out_proj", "layers.2.self_attn.out_proj")
    assert (1 in rivals_of(0, 0, gather(ours, theirs), 0)) is is_rival


def shortcuts(names: Sequence[str], first: str, last: str, counts: Sequence[int] = (3, 3)) -> nn.Module:
    """Return lists of blocks of kernels, each list's first one with a shortcut: `first` or `last` of its layers."""
    stages = nn.ModuleDict()
    for stage, count in enumerate(counts):
        width, blocks = WIDTH << stage, nn.ModuleList()
        for at in range(count):
            entry = width // 2 if at == 0 else width
            sizes = (entry, 1), (width, 3), (width, 1)
            layers = {name: nn.Conv2d(c, width, k, bias=False) for name, (c, k) in zip(names, sizes, strict=True)}
            side = {} if at else {first or last: nn.Conv2d(entry, width, 1, bias=False)}
            blocks.append(nn.ModuleDict({**side, **layers} if first else {**layers, **side}))
        stages[f"stage{stage}"] = blocks
    return filled(stages)


OURS, THEIRS = ("squeeze", "look", "spread"), ("f_a", "f_b", "f_c")


def test_blocks_without_a_shortcut_tell_what_the_layers_of_first_blocks_are() -> None:
    model, saved = shortcuts(OURS, "", "bypass"), shortcuts(THEIRS, "skip", "").state_dict()
    tg.load(model, saved)
    for stage in ("stage0", "stage1"):
        for ours, theirs in zip((*OURS, "bypass"), (*THEIRS, "skip"), strict=True):
            assert torch.equal(model[stage][0][ours].weight, saved[f"{stage}.0.{theirs}.weight"])


def normed(stages: nn.Module, *, rows: bool) -> nn.Module:
    """Return the lists with a norm behind each kernel: in a row of two, or both under words."""
    for stage in stages.children():
        for at in stage.children():
            for name, kernel in list(at.named_children()):
                both = kernel, nn.BatchNorm2d(kernel.weight.shape[0])
                at[name] = nn.Sequential(*both) if rows else block(("kernel", "norm"), both)
    return filled(stages)


def test_layers_in_rows_inside_of_blocks_are_told_by_other_blocks() -> None:
    model = normed(shortcuts(OURS, "", "bypass"), rows=False)
    saved = normed(shortcuts(THEIRS, "skip", ""), rows=True).state_dict()
    tg.load(model, saved)
    for stage in ("stage0", "stage1"):
        for ours, theirs in zip((*OURS, "bypass"), (*THEIRS, "skip"), strict=True):
            assert torch.equal(model[stage][0][ours]["kernel"].weight, saved[f"{stage}.0.{theirs}.0.weight"])
            assert torch.equal(model[stage][0][ours]["norm"].weight, saved[f"{stage}.0.{theirs}.1.weight"])


def test_nothing_tells_where_each_list_has_but_one_block() -> None:
    model, saved = shortcuts(OURS, "", "bypass", (1, 1)), shortcuts(THEIRS, "skip", "", (1, 1)).state_dict()
    doubtful = {step.slot.name for step in tg.plan(model, saved).doubtful}
    assert doubtful >= {"stage0.0.squeeze.weight", "stage0.0.bypass.weight"}


def test_blocks_that_contradict_each_other_tell_nothing() -> None:
    model, saved = shortcuts(OURS, "", "bypass", (2, 2)), shortcuts(THEIRS, "skip", "", (2, 2))
    saved["stage1"][1] = nn.ModuleDict(
        {"skip": saved["stage1"][1]["f_a"], "f_b": saved["stage1"][1]["f_b"], "f_c": saved["stage1"][1]["f_c"]}
    )
    doubtful = {step.slot.name for step in tg.plan(model, saved.state_dict()).doubtful}
    assert "stage0.0.bypass.weight" in doubtful


class Kept(nn.Linear):
    """A subclass of torch's Linear with a forward pass of its own, as Falcon has it: its matrix lies as there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


@pytest.mark.parametrize("kind", [nn.Linear, Kept])
def test_subclasses_of_linear_keep_their_matrices_as_it_does(kind: type[nn.Linear]) -> None:
    def network(names: Sequence[str], layer: type[nn.Linear]) -> nn.Module:
        sizes = (WIDTH, 3 * WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)
        return nn.ModuleList(block(("qkv", *names), [layer(*size, bias=False) for size in sizes]) for _ in range(2))

    model = nn.ModuleDict({"h": network(("dense_h_to_4h", "dense_4h_to_h"), kind)})
    saved = filled(nn.ModuleDict({"h": network(("fc", "proj"), nn.Linear)})).state_dict()
    tg.load(model, saved)
    assert torch.equal(model["h"][1]["dense_h_to_4h"].weight, saved["h.1.fc.weight"])
    assert torch.equal(model["h"][1]["dense_4h_to_h"].weight, saved["h.1.proj.weight"])
