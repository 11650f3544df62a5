"""Ctrl-C at every line of a run: both models, and the process, are as before, and the interrupt arrives."""

import linecache
import os
import random
import signal
import sys

import pytest
import torch
from test_untouched import Noisy, same, state
from torch import nn
from torch.nn.modules import module as internals

import torchgraft as tg
from torchgraft.verifying.tracing.gradients import influences

DELICATE = (
    "restore.py",
    "whereabouts.py",
    "outputs.py",
    "shield.py",
    "hands.py",
    "contextlib.py",
    "tracing/__init__.py",
)


class Interrupts:
    """Sends SIGINT at one of the lines that run in some files, counted from 0."""

    def __init__(self, files, at):
        self._files, self._left = files, at
        self.sent = False

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, *_):
        return self._line if frame.f_code.co_filename.endswith(self._files) and not self.sent else None

    def _line(self, frame, event, _):
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not self.sent and line != "try:":  # where no signal is ever handled
            if self._left == 0:
                self.sent = True
                os.kill(os.getpid(), signal.SIGINT)
            self._left -= 1
        return self._line


def whole(models):
    return [state(model) for model in models], torch.get_rng_state(), random.getstate()


def pair():
    torch.manual_seed(1)
    source, target = Noisy().train(), Noisy().train()
    target.norm.eval()
    for model in (source, target):
        model(torch.randn(3, 4)).sum().backward()
        del model.table
    return source, target


def expect_same(before, models):
    after = whole(models)
    assert all(same(*both) for both in zip(before[0], after[0], strict=True))
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not internals._global_forward_hooks
    assert not internals._global_forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def interrupted_everywhere(run, models, files, stride):
    """Run again and again, interrupted a little later each time, until it comes to its end first."""
    before, at = whole(models), 0
    while True:
        with Interrupts(files, at) as interrupts:
            try:
                run()
                arrived = False
            except KeyboardInterrupt:
                arrived = True
        expect_same(before, models)
        assert arrived == interrupts.sent
        if not interrupts.sent:
            return at
        at += stride


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("files", "stride"), [(DELICATE, 2), (("recorder.py", "models.py", "prints.py"), 41)])
def test_verification(files, stride):
    source, target = pair()
    inputs, plan = torch.randn(5, 4), tg.plan(target, source)
    points = interrupted_everywhere(
        lambda: tg.verify(target, source, inputs, plan=plan), (source, target), files, stride
    )
    assert points > 100


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("files", "stride"), [(DELICATE, 29), (("guide.py", "recorder.py"), 41)])
def test_doubt_that_is_settled_by_runs(files, stride):
    torch.manual_seed(1)
    source, target = (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)) for _ in range(2))
    inputs = torch.randn(3, 4)
    points = interrupted_everywhere(lambda: tg.plan(target, source, inputs=inputs), (source, target), files, stride)
    assert points > 100


@pytest.mark.usefixtures("ctrl_c")
def test_gradients():
    models = pair()
    models[0].norm.weight.requires_grad, inputs = False, torch.randn(5, 4)
    names = [name for name, _ in models[0].named_parameters()] + ["norm.running_mean"]
    points = interrupted_everywhere(
        lambda: influences(models[0], inputs, names, ["output"]), models, ("gradients.py", "restore.py"), 1
    )
    assert points > 20


@pytest.mark.usefixtures("ctrl_c")
def test_a_model_that_runs_for_ever_can_be_stopped():
    class Endless(nn.Module):
        def forward(self, x):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
            raise AssertionError(x)

    with pytest.raises(KeyboardInterrupt):
        tg.verify(Endless(), Endless(), torch.randn(1), plan=tg.plan(nn.Linear(1, 1), nn.Linear(1, 1)))
