"""What steps with ops, rows and a base write, and that the careful way equals the fast one."""

from __future__ import annotations

import pytest
import torch
from applying_helpers import WHY, MemorySource, fingerprint, plan_for, source_for
from applying_models import channels_last, conv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchgraft.applying import apply, moves
from torchgraft.core.plan import Feed, Rows, Step
from torchgraft.ops import Index, SliceDim
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values


class Twice:
    lossless = True

    def run(self, values):
        return sum(values) * 2

    def describe(self):
        return "twice"


class Ones:
    lossless = True

    def __init__(self, shape):
        self.shape = shape

    def run(self, values):
        return torch.ones(self.shape)

    def describe(self):
        return "ones"


def run(model, tensors, **steps):
    target = survey(model)
    source = MemorySource(tensors)
    slots = {slot.name: slot for slot in target.slots}
    made = {name: Step(slot=slots[name.replace("__", ".")], why=WHY, **spec) for name, spec in steps.items()}
    return apply(model, target, plan_for(target, source, **made), source, verify=compare_values)


def test_rows_leave_the_other_rows():
    model = nn.Linear(3, 5)
    old = model.weight.detach().clone()
    run(model, {"w": torch.arange(6.0).view(2, 3)}, weight={"feeds": (Feed("w"),), "rows": Rows(0, (4, 1))})
    assert torch.equal(model.weight[[4, 1]], torch.arange(6.0).view(2, 3))
    assert torch.equal(model.weight[[0, 2, 3]], old[[0, 2, 3]])


def test_base_comes_first_and_is_not_changed_while_computing():
    model = nn.Linear(3, 5)
    old = model.weight.detach().clone()
    run(model, {"w": torch.ones(5, 3)}, weight={"feeds": (Feed("w"),), "ops": (Twice(),), "base": True})
    assert torch.equal(model.weight, (old + 1) * 2)


def test_ops_alone_make_a_constant():
    model = nn.Linear(3, 5)
    run(model, {"w": torch.ones(5, 3)}, bias={"ops": (Ones((5,)),)})
    assert torch.equal(model.bias, torch.ones(5))


def test_ops_of_a_feed_come_before_those_of_the_step():
    model = nn.Linear(3, 5, bias=False)
    feeds = (Feed("a", (Twice(),)), Feed("b"))
    run(model, {"a": torch.ones(5, 3), "b": torch.ones(5, 3)}, weight={"feeds": feeds, "ops": (Twice(),)})
    assert torch.equal(model.weight, torch.full((5, 3), 6.0))


def test_fresh_slots_stay_untouched():
    model = conv()
    old = {k: v.clone() for k, v in model.state_dict().items()}
    done = run(model, {"3.bias": torch.ones(4)})
    assert done.undo_bytes == 16
    assert all(torch.equal(v, old[k]) for k, v in model.state_dict().items() if k != "3.bias")


def test_the_fast_way_equals_the_careful_one(monkeypatch):
    results = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(moves, "segments", lambda *_: None)
        model = channels_last()
        target = survey(model)
        source = source_for(target)
        apply(model, target, plan_for(target, source), source, verify=compare_values)
        results.append({k: v.clone() for k, v in model.state_dict().items()})
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


@st.composite
def random_models(draw):
    """A random stack of small layers in random types, some tied, some frozen."""
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    width = draw(st.integers(1, 5))
    layers = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["linear", "norm", "conv", "tie"]))
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        if kind == "linear":
            layers.append(nn.Linear(width, width, bias=draw(st.booleans())))
        elif kind == "norm":
            layers.append(nn.BatchNorm1d(width))
        elif kind == "conv":
            layers.append(nn.Conv2d(width, 2, 2).to(memory_format=torch.channels_last))
        elif linears:
            layers.append(nn.Linear(width, width))
            layers[-1].weight = linears[0].weight
    model = nn.Sequential(*layers).to(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])))
    for parameter in model.parameters():
        parameter.requires_grad_(draw(st.booleans()))
    return model


@settings(max_examples=40, deadline=None)
@given(model=random_models(), data=st.data())
def test_random_models_are_filled_or_unchanged(model, data):
    target = survey(model)
    reads = max(1, len(source_for(target).tensors))
    fail_at = data.draw(st.none() | st.integers(0, reads - 1))
    source = source_for(target, fail_at=fail_at, error=KeyboardInterrupt)
    before = fingerprint(model)
    flags = [(id(p), p.requires_grad, p.dtype, p.stride()) for p in model.parameters()]
    try:
        apply(model, target, plan_for(target, source), source, verify=compare_values)
    except KeyboardInterrupt:
        assert fingerprint(model) == before
    else:
        state = model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in source.tensors.items())
    assert flags == [(id(p), p.requires_grad, p.dtype, p.stride()) for p in model.parameters()]


@pytest.mark.parametrize("divisible", [True, False])
def test_what_several_steps_cut_up_is_read_once(divisible):
    model = nn.ModuleList(nn.Linear(3, 2, bias=False) for _ in range(4))
    target = survey(model)
    source = MemorySource({"stack": torch.randn(4, 2, 3), "qkv": torch.randn(4, 3)})
    feeds = [Feed("stack", (Index(0, 0),)), Feed("stack", (Index(0, 1),)), Feed("qkv", (SliceDim(0, 0, 2),))]
    feeds.append(Feed("qkv", (SliceDim(0, 2, 4),)))
    steps = {
        slot.name.replace(".", "__"): Step(slot=slot, feeds=(f,), why=WHY)
        for slot, f in zip(target.slots, feeds, strict=True)
    }
    source.divisible = lambda *_: divisible
    done = apply(model, target, plan_for(target, source, **steps), source, verify=compare_values)
    assert source.reads == (4 if divisible else 2)  # each part, or each tensor whole
    assert done.bytes_read == (96 if divisible else 288)
    assert torch.equal(model[1].weight, source.tensors["stack"][1])
    assert torch.equal(model[3].weight, source.tensors["qkv"][2:])
