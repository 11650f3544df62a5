"""Of a source tensor of which a part is used, the coverage counts that part."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft import AxisNames

OLD = tuple("abcdefghij")


class Projections(nn.Module):
    def __init__(self, *, fused):
        super().__init__()
        if fused:
            self.qkv = nn.Linear(4, 12)
        else:
            self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.out = nn.Linear(4, 4)


def numbered(model):
    """Return a state dict whose elements are all different."""
    state, count = {}, 1
    for name, tensor in model.state_dict().items():
        state[name] = torch.arange(count, count + tensor.numel(), dtype=torch.float64).view(tensor.shape)
        count += tensor.numel()
    return state


def head(classes):
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, classes))


def conv(size):
    return nn.Sequential(nn.Conv2d(2, 3, size), nn.Conv2d(3, 2, 1))


@pytest.mark.parametrize(
    ("model", "source", "said"),
    [
        (head(5), head(10), {"axis_names": {"1": AxisNames(OLD, tuple("defgh"))}}),
        (head(5), head(10), {"axis_names": {"1": AxisNames(OLD, tuple("bxfyz"))}}),
        (Projections(fused=False), Projections(fused=True), {}),
        (Projections(fused=False), Projections(fused=True), {"fresh": ["k"]}),
        (Projections(fused=True), Projections(fused=False), {}),
        (conv(3), conv(5), {"kernels": {"0.weight": "crop"}}),
    ],
)
def test_elements_of_the_checkpoint_that_are_counted_are_those_that_are_in_the_model(model, source, said):
    state = numbered(source)
    report = tg.load(model.double(), state, on_doubt="take", min_coverage=0, **said)
    there = {value for tensor in model.state_dict().values() for value in tensor.flatten().tolist()}
    held = {value for tensor in state.values() for value in tensor.flatten().tolist()}
    cover = report.plan.coverage
    assert (cover.source_elements, cover.source_used) == (len(held), len(held & there))
