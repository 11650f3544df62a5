"""Two loads at once over one piece of memory: the second is refused, whatever the tensors are that lie there."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.applying.exclusive import exclusively
from torchgraft.core.errors import UsageError
from torchgraft.core.places import places


class Wrapped(torch.Tensor):
    """A tensor without memory of its own, made of another one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, strides=inner.stride())

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError


def holding(tensor):
    model = nn.Module()
    if type(tensor) is torch.Tensor:
        model.w = nn.Parameter(tensor)
    else:
        model.register_buffer("w", tensor)
    return model


def over(array):
    return torch.from_numpy(array)


BASE = torch.randn(8, 8)
ARRAY = np.zeros((8, 8), np.float32)
SHARED = nn.Parameter(torch.randn(3, 3, device="meta"))
OVERLAPPING = {
    "two parameters over one tensor": (BASE, BASE),
    "a part": (BASE, BASE[2:4]),
    "a transposed view": (BASE.T, BASE),
    "columns between columns": (BASE[:, 1:3], BASE[:, 2:5]),
    "another type": (BASE, BASE.view(torch.int32).view(torch.float32)),
    "a tensor without memory": (SHARED, SHARED),
    "made of another tensor": (Wrapped(BASE[:3]), BASE),
    "two storages of one memory": (over(ARRAY), over(ARRAY[3:])),
}
APART = {
    "rows beside rows": (BASE[:4], BASE[4:]),
    "a copy": (BASE, BASE.clone()),
    "no memory": (torch.empty(3, 3, device="meta"), torch.empty(3, 3, device="meta")),
    "no elements": (torch.empty(0, 8), BASE[:0]),
}


@pytest.mark.parametrize(("one", "other"), OVERLAPPING.values(), ids=OVERLAPPING)
def test_memory_is_filled_by_one_load_at_a_time(one, other):
    first, second = places(holding(one)), places(holding(other))
    for some, others in ((first, second), (second, first)):
        with exclusively(some), pytest.raises(UsageError, match="is being filled by another load"), exclusively(others):
            pass
        with exclusively(others):
            pass


@pytest.mark.parametrize(("one", "other"), APART.values(), ids=APART)
def test_what_lies_apart_is_filled_at_the_same_time(one, other):
    with exclusively(places(holding(one))), exclusively(places(holding(other))):
        pass


def test_a_load_that_is_done_or_was_refused_bars_nobody():
    first, second = places(holding(BASE)), places(holding(torch.randn(3, 3)))
    with exclusively(second):
        with pytest.raises(ZeroDivisionError), exclusively(first):
            raise ZeroDivisionError
        with exclusively(first):
            pass


def test_a_model_over_the_memory_of_another_waits_in_another_thread():
    base = torch.zeros(100, 100)
    first, second = holding(base), holding(base)
    begun, go_on = threading.Event(), threading.Event()

    def wait(done, total):
        del done, total
        begun.set()
        go_on.wait(60)

    thread = threading.Thread(target=tg.load, args=(first, {"w": torch.ones(100, 100)}), kwargs={"progress": wait})
    thread.start()
    assert begun.wait(60)
    try:
        with pytest.raises(UsageError, match="is being filled by another load"):
            tg.load(second, {"w": torch.full((100, 100), 2.0)})
    finally:
        go_on.set()
        thread.join()
    assert bool((base == 1).all())
