"""Depth, over random models: every layer gets the layer that was asked for, and copies may change nothing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg


class Block(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.fc2(torch.tanh(self.fc1(self.norm(x))))


class Net(nn.Module):
    """Blocks with a shortcut, under a wrapper's name or not, between two layers."""

    def __init__(self, depth, width, hidden, wrapper):
        super().__init__()
        self.stem, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        blocks = nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.path = f"{wrapper}.blocks" if wrapper else "blocks"
        if wrapper:
            self.add_module(wrapper, nn.ModuleDict({"blocks": blocks}))
        else:
            self.blocks = blocks
        with torch.no_grad():
            for value in self.parameters():
                value.normal_()

    def forward(self, x):
        x = self.stem(x)
        for block in self.get_submodule(self.path):
            x = block(x)
        return self.head(x)


nets = st.tuples(st.sampled_from((4, 6)), st.sampled_from((5, 8)), st.sampled_from(("", "encoder", "trunk")))


@settings(max_examples=25, deadline=None)
@given(nets, st.integers(1, 5), st.data())
def test_every_layer_is_the_one_that_was_asked_for(net, depth, data):
    picked = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=7), label="picked")
    source, target = Net(depth, *net), Net(len(picked), *net)
    report = tg.load(target, source, layers={source.path: picked})
    there, here = source.get_submodule(source.path), target.get_submodule(target.path)
    for at, origin in enumerate(picked):
        for name, value in here[at].state_dict().items():
            assert torch.equal(value, there[origin].state_dict()[name])
    named = {u.spec.name.removeprefix(source.path + ".").split(".")[0] for u in report.plan.unused}
    assert named == {str(at) for at in range(depth)} - set(map(str, picked))


@settings(max_examples=15, deadline=None)
@given(nets, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_copies_that_end_in_zeros_change_no_output(net, times):
    source, target = Net(len(times), *net).eval(), Net(sum(times), *net).eval()
    picked = [at for at, count in enumerate(times) for _ in range(count)]
    copies = [at for at, origin in enumerate(picked) if at and picked[at - 1] == origin]
    zero = [f"{target.path}.{at}.fc2.{leaf}" for at in copies for leaf in ("weight", "bias")]
    tg.load(target, source, layers={source.path: picked}, zero=zero)
    x = torch.randn(4, 3)
    assert torch.allclose(target(x), source(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(nets, st.integers(1, 6), st.integers(1, 6))
def test_without_a_word_layers_keep_their_numbers(net, deep, wanted):
    source, target = Net(deep, *net), Net(wanted, *net)
    report = tg.load(target, source)
    there, here = source.get_submodule(source.path), target.get_submodule(target.path)
    for at in range(min(deep, wanted)):
        for name, value in here[at].state_dict().items():
            assert torch.equal(value, there[at].state_dict()[name])
    fresh = {step.slot.name.removeprefix(target.path + ".").split(".")[0] for step in report.plan.fresh}
    assert fresh == {str(at) for at in range(deep, wanted)}
