"""Chunks hold every byte once, in order, and no more than they may; what is odd or differs is found across their borders."""

from __future__ import annotations

import pytest
import torch
from applying_helpers import plan_for, source_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchgraft.applying import Manner, apply, transfers
from torchgraft.applying.chunks import MOST_PARTS, Transfer, chunks
from torchgraft.applying.moves import Segment
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import PlanRefusedError
from torchgraft.core.plan import Step, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values


def transfer(name, sizes):
    slot = Slot(spec=TensorSpec(name, (sum(sizes),), DType.U8))
    step = Step(slot=slot, why=Why("test", ""))
    at, segments = 0, []
    for size in sizes:
        segments.append(Segment("", name, 7, at, size))
        at += size
    return Transfer(step, torch.zeros(0), None, tuple(segments), sum(sizes), [])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=3), max_size=400), st.integers(1, 64))
def test_every_byte_is_in_one_chunk(sizes, most):
    given_ = [transfer(f"t{i}", some) for i, some in enumerate(sizes)]
    made = list(chunks(given_, most))
    assert all(chunk and sum(part.size for part in chunk) <= most and len(chunk) <= MOST_PARTS for chunk in made)
    found = [(p.transfer.step.slot.name, p.at + n, p.done + n) for c in made for p in c for n in range(p.size)]
    assert found == [(t.step.slot.name, n, n) for t in given_ for n in range(t.size)]
    assert all(p.start - p.segment.start == p.at - p.segment.at for c in made for p in c)


class Many(nn.Module):
    """Tensors smaller and larger than a chunk, of several types."""

    def __init__(self):
        super().__init__()
        for number, count in enumerate((3, 70_000, 1, 5000, 40_000, 17)):
            self.register_parameter(f"f{number}", nn.Parameter(torch.randn(count)))
            self.register_parameter(f"h{number}", nn.Parameter(torch.randn(count).half()))
            self.register_buffer(f"n{number}", torch.zeros((), dtype=torch.uint8))


@pytest.mark.parametrize("undo", ["auto", "keep", "check", "none"])
@pytest.mark.parametrize("looked_at", [4096, 20_000, 4 << 20])
def test_all_ways_give_the_same(undo, looked_at, monkeypatch):
    monkeypatch.setattr(transfers, "LOOKED_AT", looked_at)
    monkeypatch.setattr(transfers, "MOVED", 3 * looked_at)
    model = Many()
    target = survey(model)
    source = source_for(target)
    done = apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo=undo))
    assert all(check.passed for check in done.checks)
    assert all(torch.equal(value, source.tensors[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("undo", ["keep", "check"])
@pytest.mark.parametrize("looked_at", [4096, 4 << 20])
def test_odd_values_are_counted_by_tensor(undo, looked_at, monkeypatch):
    monkeypatch.setattr(transfers, "LOOKED_AT", looked_at)
    model = Many()
    target = survey(model)
    source = source_for(target)
    for at in (0, 1023, 1024, 69_999):
        source.tensors["f1"][at] = float("nan")
    source.tensors["h5"][16] = float("inf")
    with pytest.raises(PlanRefusedError) as caught:
        apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo=undo))
    texts = [o.text for o in caught.value.objections]
    assert len(texts) == 2
    assert "f1 [70000] would get 4 NaN values" in texts[0]
    assert "h5 [17] would get 1 infinite value" in texts[1]


@pytest.mark.parametrize("count", [1_000_003, 2_600_001])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("undo", ["keep", "check"])
def test_shares_end_between_elements(count, dtype, undo, monkeypatch):
    monkeypatch.setattr(transfers, "LEAST", 1 << 16)
    model = nn.Module()
    for number, many in enumerate((count, count + 1, 3)):
        model.register_parameter(f"p{number}", nn.Parameter(torch.zeros(many, dtype=dtype)))
    target = survey(model)
    source = source_for(target)
    apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo=undo))
    assert all(torch.equal(value, source.tensors[name]) for name, value in model.state_dict().items())
