"""Signals that come under a shield are handled once and in order, whatever happens meanwhile."""

import os
import signal

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.system.shield import Shield

FIRST, SECOND, THIRD = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2


class StopError(Exception):
    pass


@pytest.fixture
def handled():
    """A list of the signals that were handled, and a dict of what the handlers are to raise."""
    seen, raised = [], {}

    def handle(number, frame):
        del frame
        seen.append(number)
        if number in raised:
            raise raised[number]

    before = {number: signal.signal(number, handle) for number in (FIRST, SECOND, THIRD, signal.SIGINT)}
    yield seen, raised
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def fail_under_a_shield(*numbers, error):
    with Shield():
        send(*numbers)
        raise error


def test_they_arrive_in_order_where_the_work_fails(handled):
    seen, _ = handled
    with pytest.raises(OSError, match="no disk") as caught:
        fail_under_a_shield(SECOND, FIRST, error=OSError("no disk"))
    assert seen == [SECOND, FIRST]
    assert caught.value.__context__ is None


def test_all_arrive_where_handlers_raise_and_no_error_is_lost(handled):
    seen, raised = handled
    raised |= {FIRST: StopError("first"), THIRD: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt) as caught:
        fail_under_a_shield(FIRST, SECOND, THIRD, error=OSError("no disk"))
    assert seen == [FIRST, SECOND, THIRD]
    assert caught.value.__context__ is raised[FIRST]
    assert str(raised[FIRST].__context__) == "no disk"


def test_what_is_left_arrives_when_a_delivered_one_raises(handled):
    seen, raised = handled
    raised[signal.SIGINT] = KeyboardInterrupt()
    at_the_end = []

    def deliver():
        with Shield() as shield:
            send(signal.SIGINT, SECOND)
            try:
                shield.deliver()
            finally:
                at_the_end.extend(seen)

    with pytest.raises(KeyboardInterrupt):
        deliver()
    assert at_the_end == [signal.SIGINT]
    assert seen == [signal.SIGINT, SECOND]


def test_they_reach_an_outer_shield_and_wait_there(handled):
    seen, _ = handled
    with Shield():
        with pytest.raises(OSError, match="no disk"):
            fail_under_a_shield(FIRST, error=OSError("no disk"))
        assert not seen
    assert seen == [FIRST]


def test_what_is_ignored_or_left_to_the_system_stays_so():
    before = {FIRST: signal.signal(FIRST, signal.SIG_IGN), SECOND: signal.signal(SECOND, signal.SIG_DFL)}
    try:
        with pytest.raises(StopError):
            fail_under_a_shield(FIRST, error=StopError())
        assert signal.getsignal(FIRST) is signal.SIG_IGN
        assert signal.getsignal(SECOND) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_as_many_as_come_are_handled(handled):
    seen, _ = handled
    with pytest.raises(StopError):
        fail_under_a_shield(*[FIRST] * 3000, error=StopError())
    assert len(seen) == 3000


@pytest.mark.parametrize("undo", ["auto", "keep", "check", "none"])
def test_a_load_that_fails_loses_no_signal(handled, undo):
    seen, _ = handled
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    saved = {key: torch.randn_like(value) for key, value in model.state_dict().items()}

    def fail(done, total):
        del done, total
        send(FIRST)
        raise OSError("no room for the log")

    with pytest.raises(tg.ApplyError, match="no room for the log"):
        tg.load(model, saved, progress=fail, undo=undo)
    assert set(seen) == {FIRST}


def test_a_second_signal_is_handled_when_the_first_ends_the_load(handled):
    seen, raised = handled
    raised[signal.SIGINT] = KeyboardInterrupt()
    model = nn.Linear(8, 8)
    before = model.weight.detach().clone()

    def interrupt(done, total):
        del done, total
        send(signal.SIGINT, SECOND)

    with pytest.raises(KeyboardInterrupt):
        tg.load(model, {"weight": torch.randn(8, 8), "bias": torch.randn(8)}, progress=interrupt)
    assert SECOND in seen
    assert torch.equal(model.weight, before)
