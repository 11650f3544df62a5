"""A load tells how far it is: all bytes, once each or twice where they are read twice; who listens can end it, not spoil it."""

import pytest
import torch
from applying_helpers import fingerprint
from torch import nn

import torchgraft as tg


@pytest.fixture
def model():
    return nn.Sequential(*[nn.Linear(900, 900) for _ in range(4)])


def saved(model, path):
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    tg.save(path, state)
    return state


@pytest.mark.parametrize(("undo", "times"), [("keep", 1), ("none", 1), ("check", 2)])
def test_all_bytes_are_told(tmp_path, model, undo, times):
    state = saved(model, tmp_path / "a.safetensors")
    told = []
    tg.load(model, tmp_path / "a.safetensors", undo=undo, progress=lambda *now: told.append(now))
    total = times * sum(value.nbytes for value in state.values())
    assert {total} == {all_ for _, all_ in told}
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == total
    assert len(told) > 3


@pytest.mark.parametrize(("undo", "times"), [("keep", 1), ("check", 2)])
def test_what_is_cast_counts_as_much_as_it_reads(tmp_path, model, undo, times):
    state = {name: value.double() for name, value in saved(model, tmp_path / "x.pt").items()}
    tg.save(tmp_path / "a.pt", state)
    told = []
    report = tg.load(model, tmp_path / "a.pt", undo=undo, progress=lambda *now: told.append(now))
    assert told[-1] == (times * report.cost.bytes_read, times * report.cost.bytes_read)
    assert report.cost.bytes_read == sum(value.nbytes for value in state.values())


@pytest.mark.parametrize("undo", ["keep", "check"])
def test_a_listener_that_raises_ends_the_load_and_the_model_is_put_back(tmp_path, model, undo):
    saved(model, tmp_path / "a.safetensors")
    before = fingerprint(model)

    def listen(done, total):
        raise ValueError(f"no room to say {done} of {total}")

    with pytest.raises(tg.ApplyError, match="no room"):
        tg.load(model, tmp_path / "a.safetensors", undo=undo, progress=listen)
    assert fingerprint(model) == before


def test_a_listener_that_raises_late_costs_no_model(tmp_path, model):
    state = saved(model, tmp_path / "a.safetensors")

    def listen(done, total):
        if 2 * done > total:
            raise ValueError

    report = tg.load(model, tmp_path / "a.safetensors", undo="check", progress=listen)
    assert all(check.passed for check in report.checks)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_listener_that_cannot_be_called_is_a_wrong_argument(tmp_path, model):
    saved(model, tmp_path / "a.safetensors")
    before = fingerprint(model)
    with pytest.raises(tg.UsageError, match="progress is a bool: give a function"):
        tg.load(model, tmp_path / "a.safetensors", progress=True)
    assert fingerprint(model) == before
