import gc

import pytest

from torchgraft.core.system import fast_objects as collector
from torchgraft.core.system.fast_objects import collector_paused


class Cycle:
    def __init__(self, alive):
        self.me = self
        alive.append(None)
        self.alive = alive

    def __del__(self):
        self.alive.pop()


@pytest.fixture
def quiet(monkeypatch):
    gc.collect()
    monkeypatch.setattr(collector, "_unseen", [])


def test_garbage_of_many_small_calls_is_collected(quiet):
    alive = []
    for _ in range(3000):
        with collector_paused():
            Cycle(alive)
            _ = [[] for _ in range(200)]
    assert len(alive) < 3000


def test_garbage_of_large_calls_is_collected_after_some(quiet, monkeypatch):
    monkeypatch.setattr(collector, "_UNSEEN_AT_MOST", 300_000)
    alive = []
    left = []
    for _ in range(20):
        with collector_paused():
            Cycle(alive)
            kept = [[] for _ in range(60_000)]
        left.append(len(alive))
        del kept
    assert 1 < max(left) < 20
    assert left != sorted(left)


@pytest.mark.parametrize("count", [10, 60_000])
@pytest.mark.parametrize("running", [True, False])
def test_the_collector_goes_on_as_before(quiet, count, running):
    frozen = gc.get_freeze_count()
    if not running:
        gc.disable()
    try:
        with pytest.raises(ValueError, match="inside"), collector_paused():  # noqa: PT012
            assert not gc.isenabled()
            _ = [[] for _ in range(count)]
            raise ValueError("inside")
        assert gc.isenabled() == running
        assert gc.get_freeze_count() <= frozen
    finally:
        gc.enable()


def seen_by_the_collector(thing):
    return any(one is thing for one in gc.get_objects())  # leaves out what is frozen


def test_what_somebody_froze_stays_frozen(quiet):
    # One list of theirs, not the number of all: any frozen object may be freed meanwhile, by whoever held it.
    theirs = [[]]
    assert seen_by_the_collector(theirs)
    gc.freeze()
    try:
        with collector_paused():
            kept = [[] for _ in range(60_000)]
        assert seen_by_the_collector(kept)
        assert not seen_by_the_collector(theirs)
    finally:
        gc.unfreeze()
