"""The module that a checkpoint was saved from: its layer types, their order and its heads settle what names leave open."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 6


class Conv1D(nn.Module):
    """A layer that stores its matrix [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))


def row(*names: str, layer: type[nn.Module] = nn.Linear, sizes: tuple[int, ...] = ()) -> nn.Module:
    model = nn.Module()
    for at, name in enumerate(names):
        model.add_module(name, layer(WIDTH, sizes[at] if sizes else WIDTH))
    return model


def sure(plan: tg.Plan) -> dict[str, Certainty]:
    return {step.slot.name: step.certainty for step in plan.steps}


def test_types_of_layers_tell_how_square_matrices_are_stored() -> None:
    source = row("a", "b", layer=Conv1D)
    target = row("a", "b")
    tg.load(target, source.state_dict())
    assert torch.equal(target.a.weight, source.a.weight)  # nothing in the file shows that the matrices are turned
    plan = tg.load(target, source.state_dict(), source_model=source).plan
    assert torch.equal(target.a.weight, source.a.weight.T)
    assert sure(plan)["a.weight"] is Certainty.CERTAIN


def test_a_mix_of_layer_types_is_in_doubt_until_the_types_are_known() -> None:
    def mixed() -> nn.Module:
        model = nn.Module()
        model.turned, model.straight, model.square = Conv1D(6, 4), nn.Linear(6, 4), Conv1D(6, 6)
        return model

    source = mixed()
    target = row("turned", "straight", "square", sizes=(4, 4, 6))
    assert sure(tg.plan(target, source.state_dict()))["square.weight"] is Certainty.DOUBT
    plan = tg.load(target, source.state_dict(), source_model=source).plan
    assert sure(plan)["square.weight"] is Certainty.CERTAIN
    assert torch.equal(target.square.weight, source.square.weight.T)


def test_the_order_of_a_file_that_is_sorted_by_name_is_that_of_the_model() -> None:
    sizes = {"zeta": (8, 5), "alpha": (5, 5), "mid": (5, 8), "omega": (8, 8), "beta": (8, 8)}
    source = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
    target = nn.Sequential(*(nn.Linear(*s) for s in sizes.values()))
    state = dict(sorted(source.state_dict().items()))
    right = {f"{at}.weight": f"{name}.weight" for at, name in enumerate(sizes)}
    plan = tg.plan(target, state, source_model=source, on_doubt="take")
    assert {s.slot.name: s.feeds[0].key for s in plan.steps if s.slot.name in right} == right
    blind = tg.plan(target, state, on_doubt="take")
    assert {s.slot.name: s.feeds[0].key for s in blind.steps if s.slot.name in right} != right


@pytest.mark.parametrize(("taken", "added"), [("", "model."), ("net.", "")])
def test_one_prefix_may_stand_before_the_names_of_either(taken: str, added: str) -> None:
    source = row("a", "b", layer=Conv1D)
    held = nn.ModuleDict({"net": source}) if taken else source
    state = {added + key.removeprefix(taken): value for key, value in held.state_dict().items()}
    target = row("a", "b")
    tg.load(target, state, source_model=held)
    assert torch.equal(target.b.weight, source.b.weight.T)


def test_rules_and_types_go_together() -> None:
    source, target = row("x", "y", layer=Conv1D), row("a", "b")
    tg.load(target, source.state_dict(), source_model=source, rename={"x": "a", "y": "b"})
    assert torch.equal(target.a.weight, source.x.weight.T)


@pytest.mark.parametrize(
    "wrong",
    [row("p", "q", "r"), row("a", "b", sizes=(9, 9)), nn.Conv2d(3, 3, 3)],
    ids=["other names", "other sizes", "another layer"],
)
def test_a_source_model_that_the_checkpoint_is_not_of_is_refused(wrong: nn.Module) -> None:
    source, target = row("a", "b"), row("a", "b")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(tg.UsageError, match=r"source_model has \d tensors, of which the checkpoint holds 0"):
        tg.load(target, source.state_dict(), source_model=wrong)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_a_model_on_meta_is_enough() -> None:
    source, target = row("a", "b", layer=Conv1D), row("a", "b")
    with torch.device("meta"):
        shell = row("a", "b", layer=Conv1D)
    tg.load(target, source.state_dict(), source_model=shell)
    assert torch.equal(target.a.weight, source.a.weight.T)


@pytest.mark.parametrize(("held", "is_error"), [(2, True), (3, False)])
def test_a_source_model_most_of_which_the_file_lacks_is_another(held: int, *, is_error: bool) -> None:
    origin, model = row(*"abcdef"), row(*"abcdef")
    file = {name: value for name, value in origin.state_dict().items() if name[0] in "abcdef"[:held]}
    if is_error:
        with pytest.raises(tg.UsageError, match="source_model has 12 tensors, of which the checkpoint holds 4"):
            tg.plan(model, file, source_model=origin)
    else:
        assert len(tg.plan(model, file, source_model=origin).fresh) == 6
