"""What goes to a device goes through pinned memory, in streams: shown with streams that put off all work until it is waited for."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
import torch
from applying_helpers import fingerprint, plan_for, source_for
from torch import nn

from torchgraft.applying import Manner, apply, cells, chunks, device_copies, moves, workers
from torchgraft.applying import undo as undoing
from torchgraft.core.errors import ApplyError, ModelLostError, PlanRefusedError
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values
from torchgraft.verifying.values import readback

WAYS = ["auto", "keep", "check", "none"]


class Stream:
    """Does nothing of what it is told until somebody waits for it, as a device may."""

    broken = False
    waited: list = []  # noqa: RUF012

    def __init__(self, device=None):
        self.queue = []
        self.done = 0
        self.lock = threading.RLock()

    def wait_event(self, event):
        self.waited.append(event)

    def run(self, until):
        with self.lock:
            if Stream.broken:
                raise RuntimeError("the device failed")
            while self.done < until:
                place, values = self.queue[self.done]
                place.copy_(values)
                self.done += 1

    def synchronize(self):
        self.run(len(self.queue))

    def record_event(self):
        event = Event()
        event.record(self)
        return event


class Event:
    def __init__(self):
        self.stream, self.until = None, 0

    def record(self, stream):
        self.stream, self.until = stream, len(stream.queue)

    def synchronize(self):
        if self.stream is not None:
            self.stream.run(self.until)


HERE = threading.local()


@contextmanager
def at_hand(stream):
    HERE.stream = stream
    yield
    HERE.stream = None


@pytest.fixture
def device(monkeypatch):
    """Take the CPU for a device."""
    plain = cells.is_plain
    monkeypatch.setattr(cells, "is_on_cuda", plain)
    for where in (cells, undoing):
        monkeypatch.setattr(where, "is_plain", lambda tensor: False)
    monkeypatch.setattr(device_copies, "_pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    monkeypatch.setattr(device_copies, "_start_copy", lambda place, values: HERE.stream.queue.append((place, values)))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", at_hand)
    monkeypatch.setattr(torch.cuda, "device", at_hand)
    default = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: default)
    monkeypatch.setattr(workers, "_WORTH_THREADS", 0)
    monkeypatch.setattr(chunks, "SENT", 5000)
    monkeypatch.setattr(readback, "_is_plain", lambda tensor: False)
    monkeypatch.setattr(Stream, "broken", False)
    monkeypatch.setattr(Stream, "waited", [])
    return default


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.large = nn.Linear(100, 90)
        self.halves = nn.Linear(70, 30).half()
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.turned = nn.Parameter(torch.randn(6, 40).t())
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.wide = self.large.weight


def net(where="cpu"):
    with torch.device(where):
        return Net()


def loaded(model, source, **how):
    return apply(
        model, survey(model), plan_for(survey(model), source), source, verify=compare_values, manner=Manner(**how)
    )


@pytest.mark.parametrize("undo", WAYS)
@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("threads", [1, 4])
def test_everything_arrives_although_the_device_puts_it_off(where, undo, threads, device, monkeypatch):
    monkeypatch.setattr(workers.os, "cpu_count", lambda: threads)
    model = net(where)
    source = source_for(survey(model))
    result = loaded(model, source, undo=undo)
    for name, value in source.tensors.items():
        assert torch.equal(model.state_dict()[name], value), name
    assert all(check.passed for check in result.checks)
    assert Stream.waited
    assert all(event.stream is device for event in Stream.waited)


def test_memory_that_is_still_under_way_is_not_read_into(device, monkeypatch):
    """Buffers are used many times, and hold what was read last when the device takes it: only waiting keeps them apart."""
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 2)
    model = net()
    source = source_for(survey(model))
    used = []
    plain = device_copies.DeviceCopier.memory

    def counting(lane):
        used.append(lane)
        return plain(lane)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_copies.DeviceCopier, "memory", counting)
        loaded(model, source, undo="none")
    assert len(used) >= 2 * len(set(used)) * device_copies.BUFFERS
    assert torch.equal(model.large.weight, source.tensors["wide"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Event, "synchronize", lambda event: None)
        with pytest.raises(ModelLostError, match=r"wide"):
            loaded(net(), source_for(survey(model), 1), undo="none")


@pytest.mark.parametrize("undo", ["auto", "keep", "check"])
@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.usefixtures("device")
def test_a_failure_at_any_read_leaves_the_model_as_it_was(where, undo):
    model = net(where)
    once = source_for(survey(model))
    loaded(net(where), once, undo="keep")
    before = fingerprint(model)
    for at in range(once.reads):
        with pytest.raises(ApplyError, match="injected"):
            loaded(model, source_for(survey(model), fail_at=at), undo=undo)
        assert fingerprint(model) == before


@pytest.mark.parametrize("undo", ["keep", "none"])
@pytest.mark.usefixtures("device")
def test_a_device_that_fails_is_told(undo, monkeypatch):
    model = net()
    before = fingerprint(model)
    monkeypatch.setattr(Stream, "broken", True)
    with pytest.raises(ApplyError if undo == "keep" else ModelLostError, match="the device failed"):
        loaded(model, source_for(survey(model)), undo=undo)
    if undo == "keep":
        assert fingerprint(model) == before
    else:
        assert bool(model.large.weight.isnan().all())


@pytest.mark.usefixtures("device")
def test_values_are_looked_at_before_anything_is_sent():
    model = net()
    before = fingerprint(model)
    source = source_for(survey(model))
    source.tensors["wide"][3, 3] = float("nan")
    with pytest.raises(PlanRefusedError, match=r"wide"):
        loaded(model, source, undo="check")
    assert fingerprint(model) == before


@pytest.mark.usefixtures("device")
def test_what_shares_memory_or_is_cast_goes_the_careful_way():
    model = net()
    model.register_buffer("part", model.large.weight.detach()[3:9])
    source = source_for(survey(model))
    source.tensors["part"] = source.tensors["wide"][3:9].clone()
    loaded(model, source)
    assert torch.equal(model.part, source.tensors["part"])
    model = net()
    source = source_for(survey(model))
    source.tensors["halves.weight"] = source.tensors["halves.weight"].double()
    loaded(model, source)
    assert torch.equal(model.halves.weight, source.tensors["halves.weight"].half())
    assert torch.equal(model.large.weight, source.tensors["wide"])


def test_old_values_that_are_kept_of_a_device_need_no_room_beside_them():
    away = moves.Move(None, None, (), None, 100, on_device=True)
    assert moves.undo_sizes([away, away._replace(on_device=False)]) == [100]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("undo", WAYS)
@pytest.mark.parametrize("where", ["cuda", "meta"])
def test_on_a_real_device(where, undo):
    import torchgraft as tg

    model = net(where)
    for at in range(3):
        source = source_for(survey(model), seed=at)
        if where == "meta":
            model = net(where)
        tg.load(model, source.tensors, device="cuda", undo=undo)
        for name, value in source.tensors.items():
            assert torch.equal(model.state_dict()[name].cpu(), value), name
