"""Whatever fails, whenever it fails, the model is as it was: every read of a load fails once, in every way."""

from __future__ import annotations

import copy
import random
import signal
import time
from functools import partial
from threading import Lock

import pytest
import torch
from applying_helpers import fingerprint
from applying_models import ALL
from torch import nn

import torchgraft as tg

KINDS = (OSError, MemoryError, KeyboardInterrupt)


class Faulty:
    """An opened checkpoint whose `at`-th read (counted from 0) raises `error`; the others pass it by."""

    def __init__(self, source, at, error):
        self.source = source
        self.lock = Lock()
        self.left = at
        self.error = error

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.source.close()

    def count(self):
        with self.lock:
            now, self.left = self.left, self.left - 1
        if now == 0:
            raise self.error("injected")

    def read(self, network, key):
        self.count()
        return self.source.read(network, key)

    def read_into(self, network, key, buffer, start=0):
        half = len(buffer) // 2
        self.source.read_into(network, key, buffer[:half], start)
        self.count()
        self.source.read_into(network, key, buffer[half:], start + half)

    def read_pieces(self, pieces):
        for piece in pieces:
            self.read_into(piece.network, piece.key, piece.buffer, piece.start)

    def read_many(self, tensors, starts, sizes, buffer):
        for (network, key), start, size in zip(tensors, starts, sizes, strict=True):
            self.read_into(network, key, buffer[start : start + size])


class Block(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        if fused:
            self.qkv = nn.Linear(16, 48)
        else:
            self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out_proj = nn.Linear(16, 16)


def blocks(*, fused):
    return nn.Sequential(*[Block(fused) for _ in range(4)])


def fusing():
    return blocks(fused=True), blocks(fused=False)


def splitting():
    return blocks(fused=False), blocks(fused=True)


def classes():
    """Another number of classes: the head stays fresh."""
    return (nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, n)) for n in (3, 1000))


def twice(build):
    return build(), build()


PAIRS = {
    **{build.__name__: partial(twice, build) for build in ALL},
    "fusing": fusing,
    "splitting": splitting,
    "classes": classes,
}
ENDINGS = (".pt", ".safetensors")


def made(name, folder, number):
    """Return a model with values of its own, and a file of other values for it."""
    model, other = PAIRS[name]()
    with torch.no_grad():
        for tensor in other.parameters():
            tensor.copy_(torch.randn(tensor.shape))
    path = folder / f"m{ENDINGS[number % 2]}"
    tg.save_model(path, other)
    return model, path


def faults(model, path, every, undo="auto"):
    """Let every so manieth read fail, in all ways; return how many loads failed."""
    before, old, done = fingerprint(model), copy.deepcopy(model.state_dict()), 0
    counted = Faulty(tg.open_checkpoint(path), -1, OSError)
    tg.load(copy.deepcopy(model), counted, undo=undo)
    reads = -1 - counted.left
    for at in range(0, reads, every):
        for error in KINDS:
            with pytest.raises((tg.TorchgraftError, KeyboardInterrupt)) as caught:
                tg.load(model, Faulty(tg.open_checkpoint(path), at, error), undo=undo)
            assert isinstance(caught.value, error) or isinstance(caught.value.__cause__, error)
            done += 1
            if undo == "check" and isinstance(caught.value, tg.ModelLostError):
                assert at > 0, "nothing is written before everything was read once"
                assert any(value.isnan().any() for value in model.state_dict().values())
                model.load_state_dict(old)
                before = fingerprint(model)
            assert fingerprint(model) == before, f"{error.__name__} at read {at} of {reads}"
    tg.load(model, Faulty(tg.open_checkpoint(path), reads, OSError), undo=undo)
    assert fingerprint(model) != before
    return done


@pytest.mark.parametrize("name", PAIRS)
def test_some_reads_of_every_model(name, tmp_path):
    assert faults(*made(name, tmp_path, len(name)), every=4) >= 3


@pytest.mark.parametrize("name", ["conv", "fusing", "classes"])
def test_some_reads_where_the_file_is_checked_first(name, tmp_path):
    assert faults(*made(name, tmp_path, len(name)), every=3, undo="check") >= 3


@pytest.mark.slow
def test_a_thousand_faults(tmp_path):
    total = 0
    for number, name in enumerate(PAIRS):
        for undo in ("auto", "keep", "check"):
            folder = tmp_path / f"{name} {undo}"
            folder.mkdir()
            total += faults(*made(name, folder, number), every=1, undo=undo)
    assert total >= 1000


class Alarm(BaseException):
    """What a timer raises."""


@pytest.mark.parametrize("name", ["conv", "fusing"])
def test_interrupts_at_any_moment_give_all_old_or_all_new(name, tmp_path):
    model, path = made(name, tmp_path, 0)
    tg.load(copy.deepcopy(model), path)  # what is imported the first time doesn't count
    new = copy.deepcopy(model)
    start = time.perf_counter()
    tg.load(new, path)
    took = time.perf_counter() - start

    def ring(*_):
        raise Alarm

    random.seed(0)
    old, before = copy.deepcopy(model.state_dict()), signal.signal(signal.SIGALRM, ring)
    ended = {"old": 0, "new": 0}
    try:
        for _ in range(40):
            now = fingerprint(model)
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0, took))  # noqa: S311
                tg.load(model, path)
                signal.setitimer(signal.ITIMER_REAL, 0)
                took *= 0.8  # whatever else the machine did: the alarm came too late
            except Alarm:
                pass
            torch.set_grad_enabled(True)  # an alarm may end any `with torch.no_grad()` half way
            if fingerprint(model) == now:
                ended["old"] += 1
                continue
            found = zip(model.state_dict().values(), new.state_dict().values(), strict=True)
            assert all(torch.equal(one, two) for one, two in found)
            model.load_state_dict(old)
            ended["new"] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended["old"]
