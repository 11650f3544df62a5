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
from torchgraft.verifying.tracing.capture import output_sensitivity

DELICATE = (
    "shield.py",
    "trial.py",
    "contextlib.py",
    "tracing/__init__.py",
)


class Interrupts:
    """Notes the lines that run in some files, and sends SIGINT at one of them, counted from 0; none at -1."""

    def __init__(self, files, at=-1):
        self._files, self._at = files, at
        self.lines, self.sent = [], False

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _call(self, frame, *_):
        return self._line if frame.f_code.co_filename.endswith(self._files) and not self.sent else None

    def _line(self, frame, event, _):
        place = frame.f_code.co_filename, frame.f_lineno
        if (
            event == "line" and not self.sent and linecache.getline(*place).strip() != "try:"
        ):  # no signal is handled there
            self.sent = len(self.lines) == self._at
            self.lines.append(place)
            if self.sent:
                os.kill(os.getpid(), signal.SIGINT)
        return self._line


def spread(times, most):
    """Return the first, the last, and as many of those between, evenly, as make `most`."""
    if len(times) <= most or most == 1:
        return times[:most]
    return [times[number * (len(times) - 1) // (most - 1)] for number in range(most)]


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


def interrupted_everywhere(run, models, files, most):
    """Run again and again, interrupted at every line that runs, up to `most` of the times that it does; return how often."""
    run()  # what is imported or kept for later runs a first time
    before = whole(models)
    with Interrupts(files) as seen:
        run()
    times = {}
    for at, place in enumerate(seen.lines):
        times.setdefault(place, []).append(at)
    points = [at for found in times.values() for at in spread(found, most)]
    for at in points:
        with Interrupts(files, at) as interrupts:
            try:
                run()
                arrived = False
            except KeyboardInterrupt:
                arrived = True
        expect_same(before, models)
        assert arrived, seen.lines[at]
        assert interrupts.sent
    return len(points)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("files", "most"),
    [
        (DELICATE, 1),
        pytest.param(DELICATE, 5, marks=pytest.mark.slow),
        (("recorder.py", "verify.py", "fingerprints.py"), 1),
    ],
)
def test_verification(files, most):
    source, target = pair()
    inputs, plan = torch.randn(5, 4), tg.plan(target, source)
    points = interrupted_everywhere(lambda: tg.verify(target, source, inputs, plan=plan), (source, target), files, most)
    assert points > 100


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("files", [DELICATE, ("guide.py", "recorder.py")])
def test_doubt_that_is_settled_by_runs(files):
    torch.manual_seed(1)
    source, target = (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)) for _ in range(2))
    inputs = torch.randn(3, 4)
    points = interrupted_everywhere(lambda: tg.plan(target, source, inputs=inputs), (source, target), files, 1)
    assert points > 100


@pytest.mark.usefixtures("ctrl_c")
def test_gradients():
    models = pair()
    models[0].norm.weight.requires_grad, inputs = False, torch.randn(5, 4)
    names = [name for name, _ in models[0].named_parameters()] + ["norm.running_mean"]
    points = interrupted_everywhere(
        lambda: output_sensitivity(models[0], inputs, names, ["output"]),
        models,
        ("capture.py", "tracing/__init__.py"),
        9,
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
