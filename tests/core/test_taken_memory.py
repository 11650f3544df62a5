"""Whether tensors reach into the memory of others."""

import torch

from torchgraft.core.layout import TakenMemory


class Wrapper(torch.Tensor):
    """Made of another tensor, with something beside it that is none, as a DTensor has its mesh."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner, made.beside = inner, object()
        return made

    def __tensor_flatten__(self):
        return ["inner", "beside"], None

    def __torch_dispatch__(self, *_, **__):
        raise NotImplementedError


def test_views_meet_and_neighbours_do_not():
    memory = torch.zeros(100)
    taken = TakenMemory([memory[10:20], memory[15:30], memory[50:60], torch.zeros(0), torch.zeros(3, device="meta")])
    meets = [
        taken.meets(memory[start:stop]) for start, stop in ((0, 10), (0, 11), (29, 50), (30, 50), (59, 70), (60, 70))
    ]
    assert meets == [False, True, True, False, True, False]
    assert not taken.meets(torch.zeros(100))
    assert not taken.meets(torch.zeros(3, device="meta"))


def test_what_is_made_of_other_tensors_lies_where_those_do():
    inner = torch.zeros(8)
    assert TakenMemory([Wrapper(inner)]).meets(inner[2:3])
    assert TakenMemory([inner]).meets(Wrapper(inner[2:3]))
    assert not TakenMemory([Wrapper(torch.zeros(8))]).meets(inner)
