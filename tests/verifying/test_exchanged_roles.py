"""What outputs hardly depend on, or that stands in the role of another, is not called proved because some run has its values."""

from functools import partial

import pytest
import torch
from faulty_models import randomised
from torch import nn

import torchgraft as tg
from torchgraft import Policy, Verdict
from torchgraft.core.proof import Means

LENIENT = Policy(outputs=Verdict.WARN, coverage=Verdict.WARN, missing=Verdict.WARN)


class Attending(nn.Module):
    """Layers that attend; `order` says what each part of a fused one is, or each of three of the same shape."""

    def __init__(self, *, fused, order="qkv", turned=False):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 24)] if fused else [nn.Linear(8, 8) for _ in range(3)])
        self.order, self.turned, self.out = order, turned, nn.Linear(8, 8)

    def forward(self, x):
        parts = self.layers[0](x).chunk(3, -1) if len(self.layers) == 1 else [layer(x) for layer in self.layers]
        named = dict(zip(self.order, parts, strict=True))
        q, k = (self.turn(named[name]) if self.turned else named[name] for name in "qk")
        return self.out((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ named["v"])

    @staticmethod
    def turn(x):
        angle = torch.arange(x.shape[1])[:, None] * 0.3
        one, other = x.chunk(2, -1)
        return torch.cat([one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()], -1)


class Gating(nn.Module):
    """Two layers of one shape, one of which is the gate of the other."""

    def __init__(self, *, first=True):
        super().__init__()
        self.layers, self.first, self.out = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), first, nn.Linear(8, 8)

    def forward(self, x):
        one, other = (layer(x) for layer in (self.layers if self.first else self.layers[::-1]))
        return self.out(nn.functional.silu(one) * other)


class Branch(nn.Module):
    """Adds a branch, times a gate: at zero as where training begins, or so small that outputs don't show the branch."""

    def __init__(self, branch, gate, classes=3):
        super().__init__()
        self.first, self.branch, self.head = nn.Linear(6, 8), branch, nn.Linear(8, classes)
        self.gate = nn.Parameter(torch.full((8,), gate))

    def forward(self, x):
        x = self.first(x)
        return self.head(x + self.gate * self.branch(x))


# A source and a target whose layers are in other roles, and which of these.
WRONG = [
    (partial(Attending, fused=False), {"order": "kqv"}, ("0", "1")),
    (partial(Attending, fused=False), {"order": "kvq"}, ("0", "1", "2")),
    (partial(Attending, fused=False, turned=True), {"order": "kqv"}, ("0", "1")),
    (partial(Attending, fused=True), {"order": "kqv"}, ("0",)),
    (partial(Attending, fused=True), {"order": "kvq"}, ("0",)),
    (Gating, {"first": False}, ("0", "1")),
]


def means_of_layers(source, target, gate, classes):
    source, target = Branch(source, gate), Branch(target, gate, classes)
    randomised(source.branch)
    proof = tg.plan(target, source, inputs=torch.randn(2, 5, 6), on_doubt="take", policy=LENIENT).proof
    return {slot: part.means for part in proof.parts for slot in part.slots}, proof


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("gate", [0.0, 1e-7])
@pytest.mark.parametrize(("build", "other", "wrong"), WRONG)
def test_layers_in_the_roles_of_each_other_are_proved_neither_by_outputs_nor_where_they_stand(
    build, other, wrong, gate, classes
):
    means, _ = means_of_layers(build(), build(**other), gate, classes)
    layers = {how for name, how in means.items() if name.startswith(tuple(f"branch.layers.{n}." for n in wrong))}
    assert layers.isdisjoint({Means.OUTPUTS, Means.PLACE})


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("gate", [0.0, 1e-7])
@pytest.mark.parametrize("build", [build for build, _, _ in WRONG])
def test_layers_in_their_own_roles_are_proved_where_they_stand_whatever_the_gate(build, gate, classes):
    means, proof = means_of_layers(build(), build(), gate, classes)
    assert {how for name, how in means.items() if "layers" in name or "out" in name} <= {Means.OUTPUTS, Means.PLACE}
    assert proof.complete


class Tower(nn.Module):
    """More blocks than it is looked ahead from a layer, each behind a gate, run in some order."""

    def __init__(self, gate, classes=3, first=(0, 1)):
        super().__init__()
        self.layers, self.order = nn.ModuleList([nn.Linear(8, 8) for _ in range(16)]), (*first, *range(2, 16))
        self.gates, self.head = nn.Parameter(torch.full((16, 8), gate)), nn.Linear(8, classes)

    def forward(self, x):
        for number in self.order:
            x = x + self.gates[number] * self.layers[number](x).tanh()
        return self.head(x)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("gate", [0.0, 1e-7])
def test_blocks_in_the_places_of_each_other_are_not_proved_where_they_stand(gate, classes):
    source, target = Tower(gate), Tower(gate, classes, first=(1, 0))
    proof = tg.plan(target, source, inputs=torch.randn(2, 8), on_doubt="take", policy=LENIENT).proof
    means = {slot: part.means for part in proof.parts for slot in part.slots}
    at_home = {number for number in range(16) if means[f"layers.{number}.weight"] in (Means.OUTPUTS, Means.PLACE)}
    assert at_home == set(range(2, 16))
