"""Small tensors that go together end as they would one by one, in every way to turn back; what is odd or differs is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from applying_helpers import fingerprint, plan_for, source_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchgraft.applying import Manner, apply, batches, execution
from torchgraft.applying.memory import gather, scatter
from torchgraft.core.errors import ApplyError, PlanRefusedError
from torchgraft.core.policy import Policy, Verdict
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values

WAYS = ["auto", "keep", "check", "none"]
SIZES = (3, 70, 1, 5000, 4096, 0, 17)


class Many(nn.Module):
    """Small tensors of several types among some that are not small, not in one piece, or on meta."""

    def __init__(self):
        super().__init__()
        for number, count in enumerate(SIZES):
            self.register_parameter(f"f{number}", nn.Parameter(torch.randn(count)))
            self.register_parameter(f"h{number}", nn.Parameter(torch.randn(count).half()))
            self.register_buffer(f"n{number}", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.strided = nn.Parameter(torch.randn(6, 4).t())
        self.empty = nn.Parameter(torch.empty(5, device="meta"))
        self.tied = self.f0


def many(device):
    with torch.device(device):
        return Many()


@pytest.fixture(params=[(4, 100_000), (4096, 9000)], ids=["few", "small"])
def cut(request, monkeypatch):
    monkeypatch.setattr(batches, "MANY", request.param[0])
    monkeypatch.setattr(batches, "MOST", request.param[1])


@pytest.mark.parametrize("undo", WAYS)
@pytest.mark.usefixtures("cut")
def test_together_is_as_one_by_one(undo, monkeypatch):
    together, alone = Many(), Many()
    target = survey(together)
    source = source_for(target)
    plan = plan_for(target, source)
    first = apply(together, target, plan, source, verify=compare_values, manner=Manner(undo=undo))
    monkeypatch.setattr(execution, "split_small", lambda steps, tensors, specs: ([], steps))
    second = apply(alone, target, plan, source, verify=compare_values, manner=Manner(undo=undo))
    for name, value in source.tensors.items():
        assert torch.equal(together.state_dict()[name], value), name
        assert torch.equal(alone.state_dict()[name], value), name
    assert (first.checks, first.bytes_read, first.bytes_written) == (
        second.checks,
        second.bytes_read,
        second.bytes_written,
    )


@pytest.mark.usefixtures("cut")
def test_on_meta_together_is_as_one_by_one(monkeypatch):
    together, alone = many("meta"), many("meta")
    target = survey(together)
    source = source_for(target)
    plan = plan_for(target, source)
    seen = []
    cut = execution.make_batches
    monkeypatch.setattr(execution, "make_batches", lambda *given, **how: seen.append(cut(*given, **how)) or seen[-1])
    first = apply(together, target, plan, source, verify=compare_values)
    assert seen[1]
    assert all(batch.staged and not batch.old for batch in seen[1])
    monkeypatch.setattr(execution, "split_small", lambda steps, tensors, specs: ([], steps))
    second = apply(alone, target, plan, source, verify=compare_values)
    assert (first.checks, first.bytes_read, first.undo_bytes) == (second.checks, second.bytes_read, 0)
    for name, value in source.tensors.items():
        assert torch.equal(together.state_dict()[name], value), name
        assert torch.equal(alone.state_dict()[name], value), name


@pytest.mark.parametrize("undo", ["auto", "keep", "check"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.usefixtures("cut")
def test_a_failure_at_any_read_leaves_the_model_as_it_was(undo, device):
    model = many(device)
    target = survey(model)
    once = source_for(target)
    plan = plan_for(target, once)
    apply(Many(), target, plan, once, manner=Manner(undo="keep"))
    before = fingerprint(model)
    for at in range(once.reads):
        with pytest.raises(ApplyError, match="injected"):
            apply(model, target, plan, source_for(target, fail_at=at), verify=compare_values, manner=Manner(undo=undo))
        assert fingerprint(model) == before


@pytest.mark.parametrize("undo", ["keep", "check"])
@pytest.mark.usefixtures("cut")
def test_odd_values_are_counted_by_tensor(undo):
    model = Many()
    target = survey(model)
    source = source_for(target)
    source.tensors["f1"][69] = float("nan")
    source.tensors["h4"][:2] = float("inf")
    before = fingerprint(model)
    with pytest.raises(PlanRefusedError) as caught:
        apply(model, target, plan_for(target, source), source, manner=Manner(undo=undo))
    texts = [objection.text for objection in caught.value.objections]
    assert len(texts) == 2
    assert "f1 [70] would get 1 NaN" in texts[0]
    assert "h4 [4096] would get 2 infinite" in texts[1]
    assert fingerprint(model) == before
    accepting = plan_for(target, source, Policy(nonfinite=Verdict.ACCEPT))
    apply(model, target, accepting, source, manner=Manner(undo=undo))
    assert model.f1[69].isnan()


@pytest.mark.parametrize("undo", ["keep", "check"])
@pytest.mark.usefixtures("cut")
def test_what_was_not_written_is_found_and_named(undo, monkeypatch):
    model = Many()
    target = survey(model)
    source = source_for(target)
    left_out, elsewhere = model.h3.data_ptr(), torch.empty_like(model.h3)

    def forgetful(origin, addresses, sizes):
        scatter(origin, [elsewhere.data_ptr() if a == left_out else a for a in addresses], sizes)

    monkeypatch.setattr(batches, "scatter", forgetful)
    with pytest.raises(ApplyError, match="differing: h3"):
        apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo=undo))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), max_size=30))
def test_gathered_bytes_are_scattered_to_where_they_came_from(stretches):
    memory = np.arange(256, dtype=np.uint8)
    aside = np.zeros(sum(size for _, size in stretches), np.uint8)
    base, sizes = int(memory.ctypes.data), [size for _, size in stretches]
    addresses = [base + at for at, _ in stretches]
    gather(addresses, sizes, int(aside.ctypes.data))
    assert bytes(aside) == b"".join(bytes(memory[at : at + size]) for at, size in stretches)
    before = memory.copy()
    memory[:] = 0
    scatter(int(aside.ctypes.data), addresses, sizes)
    touched = np.zeros(256, bool)
    for at, size in stretches:
        touched[at : at + size] = True
    assert (memory == np.where(touched, before, 0)).all()
