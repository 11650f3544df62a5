"""Steps that only move bytes are left to the reading, and come to the same as computing them."""

from __future__ import annotations

import pytest
import torch
from applying_helpers import WHY, MemorySource, fingerprint, plan_for, reads_in_parts
from torch import nn

import torchgraft as tg
from torchgraft.applying import Manner, apply, moves
from torchgraft.applying.moves import segments
from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.core.plan import Feed, Rows, Step
from torchgraft.ops import Concat, Index, Permute, Reshape, SelectRows, SliceDim, Stack, Transpose
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values


def cut(start, stop):
    return Feed("a", (SliceDim(0, start, stop),))


# The slot is [6, 4]; sources a [12, 4], b [2, 4], c [3, 4], s [5, 6, 4], flat [24].
STEPS = {
    "cut": ((cut(3, 9),), (), None),
    "joined": ((Feed("b"), cut(0, 1), Feed("c")), (Concat(0),), None),
    "joined again": ((Feed("b", (Reshape((8,)),)), Feed("d")), (Concat(0), Reshape((6, 4))), None),
    "split_small": ((Feed("a", (SelectRows(0, (1, 2, 3, 11, 0, 1)),)),), (), None),
    "indexed": ((Feed("s", (Index(0, 3),)),), (), None),
    "stacked": ((Feed("r"),) * 6, (Stack(0),), None),
    "into rows": ((Feed("c"),), (), Rows(0, (5, 0, 1))),
    "reshaped": ((Feed("flat", (Reshape((6, 4)),)),), (), None),
    "reversed": ((Feed("a", (SelectRows(0, tuple(range(5, -1, -1))),)),), (), None),
}


def values():
    shapes = {"a": (12, 4), "b": (2, 4), "c": (3, 4), "d": (16,), "r": (4,), "s": (5, 6, 4), "flat": (24,), "t": (4, 6)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def one(feeds, ops, rows):
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(6, 4))
    target = survey(model)
    return model, target, Step(slot=target.slots[0], feeds=feeds, ops=ops, rows=rows, why=WHY)


@pytest.mark.parametrize("undo", ["keep", "check"])
@pytest.mark.parametrize("name", STEPS)
def test_moving_bytes_equals_computing(name, undo, monkeypatch):
    given, results = values(), []
    for fast in (True, False):
        model, target, step = one(*STEPS[name])
        source = MemorySource(given)
        assert segments(step, source, {"": source.networks[0].specs})
        if not fast:
            monkeypatch.setattr(moves, "segments", lambda *_: None)
        with torch.no_grad():
            model.w.fill_(7)
        done = apply(
            model, target, plan_for(target, source, w=step), source, verify=compare_values, manner=Manner(undo=undo)
        )
        assert done.checks[0].passed
        results.append(model.w.detach().clone())
    assert torch.equal(*results)


def test_what_interleaves_is_computed():
    for feeds, ops in (
        ((Feed("t", (Transpose(),)),), ()),
        ((Feed("a", (SliceDim(1, 0, 2), SliceDim(0, 0, 6))),) * 2, (Concat(1),)),
        ((Feed("t", (Permute((1, 0)),)),), ()),
    ):
        model, target, step = one(feeds, ops, None)
        source = MemorySource(values())
        assert segments(step, source, {"": source.networks[0].specs}) is None
        apply(model, target, plan_for(target, source, w=step), source, verify=compare_values)


def test_another_type_is_cast():
    model, target, step = one((cut(0, 6),), (), None)
    source = MemorySource({"a": torch.randn(12, 4, dtype=torch.float64)})
    apply(model, target, plan_for(target, source, w=step), source, verify=compare_values)
    assert torch.equal(model.w, source.tensors["a"][:6].float())


def test_only_the_rows_that_are_wanted_are_read():
    model, target, step = one((cut(3, 9),), (), None)
    source = MemorySource(values())
    counted = reads_in_parts(source)
    done = apply(model, target, plan_for(target, source, w=step), source)
    assert done.bytes_read == 96
    assert counted == {"a": 96}


def test_many_short_stretches_are_read_at_once():
    model = nn.Embedding(200, 4)
    target = survey(model)
    source = MemorySource({"a": torch.randn(400, 4)})
    feed = Feed("a", (SelectRows(0, tuple(range(0, 400, 2))),))
    step = Step(slot=target.slots[0], feeds=(feed,), why=WHY)
    assert segments(step, source, {"": source.networks[0].specs}) is None
    apply(model, target, plan_for(target, source, weight=step), source, verify=compare_values)
    assert torch.equal(model.weight, source.tensors["a"][::2])


class Split(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size, bias=False) for _ in "qkv")


class Fused(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.qkv_proj = nn.Linear(size, 3 * size, bias=False)


@pytest.mark.parametrize("undo", ["keep", "check"])
@pytest.mark.parametrize("size", [8, 700])
def test_a_flipped_bit_in_a_record_that_is_split_is_found(size, undo, tmp_path):
    fused = Fused(size)
    path = tmp_path / "m.pt"
    torch.save(fused.state_dict(), path)
    model = Split(size)
    tg.load(model, path, undo=undo)
    parts = torch.cat([model.q_proj.weight, model.k_proj.weight, model.v_proj.weight])
    assert torch.equal(parts, fused.qkv_proj.weight)
    raw = bytearray(path.read_bytes())
    at = raw.index(fused.qkv_proj.weight.detach().numpy()[0].tobytes())
    for offset in (0, 4 * size * size + 5, 12 * size * size - 4):
        raw[at + offset] ^= 1
        path.write_bytes(raw)
        raw[at + offset] ^= 1
        model = Split(size)
        before = fingerprint(model)
        with pytest.raises(CorruptCheckpointError, match="wrong CRC"):
            tg.load(model, path, undo=undo)
        assert fingerprint(model) == before
