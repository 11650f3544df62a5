"""Verification leaves no trace in either model, nor in the process."""

import copy
import random
import threading

import numpy as np
import pytest
import torch
from faulty_models import Speech, randomised
from torch import nn
from torch.nn.modules import module as internals

import torchgraft as tg


class Noisy(nn.Module):
    """Draws random numbers, and counts its calls in a buffer and in batch statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))
        self.late = None

    def forward(self, x):
        self.calls += 1
        self.register_buffer("table", x.mean(0), persistent=False)
        return self.drop(self.norm(x)) + torch.rand(1)


def state(model):
    return {
        "values": {n: t.clone() for n, t in [*model.named_parameters(), *model.named_buffers()]},
        "modes": [m.training for m in model.modules()],
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "wanted": [p.requires_grad for p in model.parameters()],
    }


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("mode", ["eval", "as is"])
def test_both_models_are_as_before(mode):
    source, target = Noisy().train(), Noisy().train()
    target.norm.eval()
    target.load_state_dict(source.state_dict())
    for model in (source, target):
        model(torch.randn(3, 4)).sum().backward()
        del model.table
    before, inputs = [state(source), state(target)], torch.randn(5, 4)
    drawn = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    tg.verify(target, source, inputs, mode=mode)
    assert same(before[0], state(source))
    assert same(before[1], state(target))
    assert torch.equal(drawn[0], torch.get_rng_state())
    assert drawn[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert not internals._global_forward_hooks
    assert not internals._global_forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_raises_is_as_before_and_its_error_is_told():
    source, target = randomised(Speech()), randomised(Speech())
    target.head = nn.Linear(7, 5)
    target.train()
    before = state(target)
    found = tg.verify(target, source, torch.randn(2, 8, 24))
    assert not found.passed
    assert found.causes[0].kind == "failure"
    assert "mat1 and mat2" in found.causes[0].text
    assert same(before, state(target))


class Meets(nn.Module):
    """Says that its run has begun, and waits a moment for that of the other thread."""

    def __init__(self, here, there):
        super().__init__()
        self.layer, self.here, self.there = nn.Linear(4, 4), here, there

    def forward(self, x):
        self.here.set()
        self.there.wait(0.1)
        return self.layer(x) + torch.rand(1)


def test_runs_in_two_threads_leave_the_process_as_it_was():
    begun = [threading.Event(), threading.Event()]
    models = [[Meets(*order) for _ in range(2)] for order in (begun, begun[::-1])]
    found, drawn = [], torch.get_rng_state()

    def compare(target, source):
        found.append(tg.verify(target, source, torch.ones(2, 4)))

    threads = [threading.Thread(target=compare, args=pair) for pair in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert torch.equal(drawn, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()


class Forces(nn.Module):
    """Gives the gradient of an energy, as models of molecules do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        x = x.requires_grad_()
        return torch.autograd.grad(self.layer(x).square().sum(), x)[0]


def test_a_model_that_takes_gradients_itself_is_told_how_to_be_run():
    source, target = Forces(), Forces()
    report = tg.load(target, source)
    with pytest.raises(tg.UsageError, match=r"give callables as inputs that run the model within torch\.enable_grad"):
        tg.verify(target, source, torch.ones(2, 4), plan=report)

    def run(model):
        with torch.enable_grad():
            return model(torch.ones(2, 4))

    assert tg.verify(target, source, run, plan=report).complete


class Uncounted(nn.Module):
    """Has no length that could be asked for, as what torch.compile() returns for most models."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def __len__(self):
        raise TypeError("this model has no length")

    def forward(self, x):
        return self.layer(x)


def test_models_are_not_asked_for_their_length():
    source, target = Uncounted(), Uncounted()
    report = tg.load(target, source, inputs=torch.ones(2, 4))
    assert report.plan.proof.complete
    assert tg.verify(target, source, torch.ones(2, 4), plan=report).complete


def test_dropout_in_both_draws_the_same_numbers():
    source = randomised(Speech())
    target = copy.deepcopy(source)
    source.drop.train()
    target.drop.train()
    assert tg.verify(target, source, torch.randn(2, 8, 24), mode="as is").passed


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 4)
        self.register_buffer("mask", torch.eye(4).to_sparse(), persistent=False)

    def forward(self, x):
        self.mask.mul_(2)
        return self.last(x @ self.mask.to_dense())


def test_sparse_buffers_are_put_back():
    model = Masked()
    assert tg.verify(model, model, torch.randn(2, 4)).passed
    assert torch.equal(model.mask.to_dense(), torch.eye(4))


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 4)
        self.register_buffer("cache", torch.ones(2))

    def forward(self, x):
        self.cache.resize_(3).fill_(7)
        return self.last(x)


def test_buffers_that_grow_in_place_are_put_back():
    model = Growing()
    kept = model.cache
    assert tg.verify(model, model, torch.randn(2, 4)).passed
    assert model.cache is kept
    assert torch.equal(kept, torch.ones(2))
