"""Matrices turned block by block are those turned whole, and promise what copies promise."""

from __future__ import annotations

import pytest
import torch
from applying_helpers import WHY, MemorySource, fingerprint, plan_for, source_for
from torch import nn

from torchgraft.applying import Manner, apply, chunks, moves, transfers, workers
from torchgraft.applying.memory_estimate import estimate_memory
from torchgraft.core.errors import ApplyError, ModelLostError, PlanRefusedError
from torchgraft.core.plan import Feed, Step
from torchgraft.ops import Transpose
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values

WAYS = ("auto", "keep", "check", "none")
KINDS = (torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.complex64)
SIZES = ((90, 70), (1, 33), (33, 1), (3, 2000), (4097, 5), (64, 64))


def model_of(dtype, where="cpu"):
    model = nn.Module()
    for number, size in enumerate(SIZES):
        model.register_buffer(f"p{number}", torch.ones(size, dtype=dtype, device=where))
    return model


def given_for(model, dtype=torch.float32, **more):
    torch.manual_seed(3)
    values = {k: torch.randn(v.shape[::-1], dtype=torch.complex64) * 40 for k, v in model.state_dict().items()}
    real = {k: v if dtype.is_complex else v.real.to(dtype) for k, v in values.items()}
    return MemorySource(real, **more)


def plan_of(model, source):
    slots = {slot.name: slot for slot in survey(model).slots}
    turned = {name: Step(slot=slot, feeds=(Feed(name, ops=(Transpose(),)),), why=WHY) for name, slot in slots.items()}
    return plan_for(survey(model), source, **turned)


def load(model, source, undo="auto"):
    return apply(model, survey(model), plan_of(model, source), source, verify=compare_values, manner=Manner(undo=undo))


@pytest.fixture(params=[(4097 * 8, 1), (2 << 20, 4)], ids=["small", "large"])
def block(request, monkeypatch):
    for module in (chunks, moves):
        monkeypatch.setattr(module, "TRANSPOSED", request.param[0])
    monkeypatch.setattr(workers.os, "cpu_count", lambda: request.param[1])
    monkeypatch.setattr(workers, "_WORTH_THREADS", 0)
    monkeypatch.setattr(transfers, "LEAST", 1000)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("undo", WAYS)
@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_values_are_those_transposed_whole(dtype, where, undo):
    model = model_of(dtype, where)
    source = given_for(model, dtype)
    done = load(model, source, undo)
    assert all(check.passed and "all in full" in check.text for check in done.checks)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.tensors[name].t()), name
    kept = sum(value.nbytes for value in model.state_dict().values()) if (undo, where) == ("keep", "cpu") else 0
    assert undo == "auto" or done.undo_bytes == kept


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("undo", ["auto", "keep", "check"])
@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_a_failure_at_any_read_leaves_the_model_as_it_was(where, undo):
    model = model_of(torch.float32, where)
    once = given_for(model)
    load(model_of(torch.float32, where), once, "keep")
    before = fingerprint(model)
    for at in range(0, once.reads, 3):
        with pytest.raises(ApplyError, match="injected"):
            load(model, given_for(model, fail_at=at), undo)
        assert fingerprint(model) == before


@pytest.mark.usefixtures("block")
def test_every_value_is_looked_at_and_nothing_written():
    model = model_of(torch.float32)
    before = fingerprint(model)
    source = given_for(model)
    source.tensors["p3"][1999, 2] = float("nan")
    with pytest.raises(PlanRefusedError, match=r"p3.*1 NaN"):
        load(model, source, "check")
    assert fingerprint(model) == before


def test_a_file_that_changes_between_both_readings_is_noticed():
    model = model_of(torch.float32)
    source = given_for(model)
    plain, seen = source.read_into, []

    def changing(network, key, buffer, start=0):
        plain(network, key, buffer, start)
        if key == "p0" and key in seen:
            buffer[0] ^= 1
        seen.append(key)

    source.read_into = changing
    with pytest.raises(ModelLostError, match=r"p0.*it has changed"):
        load(model, source, "check")


def test_it_needs_no_memory_for_a_whole_tensor(monkeypatch):
    monkeypatch.setattr("torchgraft.applying.memory_estimate.THREADS_USE", 24 << 20)  # whatever cores there are
    model = nn.Linear(3000, 2000, bias=False)
    source = MemorySource({"weight": torch.randn(3000, 2000)})
    plan = plan_of(model, source)
    found = estimate_memory(plan, source, model)
    assert found.kept <= 4 << 20
    assert found.working < model.weight.nbytes * 2


def test_rows_longer_than_a_block_go_the_careful_way(monkeypatch):
    for module in (chunks, moves):
        monkeypatch.setattr(module, "TRANSPOSED", 100)
    model = model_of(torch.float32)
    source = given_for(model)
    load(model, source)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.tensors[name].t()), name


def test_memory_that_others_share_goes_the_careful_way():
    model = nn.Linear(40, 30, bias=False)
    model.register_buffer("part", model.weight.detach()[3:9])
    source = source_for(survey(model))
    values = torch.randn(30, 40)
    source.tensors = {"weight": values.t().contiguous(), "part": values[3:9].t().contiguous()}
    load(model, source)
    assert torch.equal(model.weight, values)
