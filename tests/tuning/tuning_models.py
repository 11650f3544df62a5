"""Small random models, and plans for them in which each slot has a fate that the test chose."""

import torch
from hypothesis import strategies as st
from torch import nn

from torchgraft.core.plan import Feed, Plan, Rows, Step, Why
from torchgraft.ops import Constant, Resample1d, Transpose
from torchgraft.surveying import survey

FATES = ("loaded", "turned", "adapted", "partly", "constant", "fresh")


def made(fates, model):
    """Return a plan under which slot n of `model` has `fates[n % len]`; buffers are loaded."""
    steps = []
    for at, slot in enumerate(survey(model).slots):
        fate = "loaded" if slot.is_buffer else fates[at % len(fates)]
        steps.append(step(slot, fate))
    return Plan(steps=tuple(steps))


def step(slot, fate):
    why = Why("test", "as the test says")
    feed = Feed("source." + slot.name)
    if fate == "fresh":
        return Step(slot=slot, why=why)
    if fate == "constant":
        return Step(slot=slot, ops=(Constant(slot.spec.shape, "float32", 0.0),), why=why)
    if fate == "partly":
        return Step(slot=slot, feeds=(feed,), rows=Rows(0, (0,)), why=why)
    if fate == "adapted":
        return Step(slot=slot, feeds=(Feed(feed.key, (Resample1d(4),)),), why=why)
    if fate == "turned":
        return Step(slot=slot, feeds=(Feed(feed.key, (Transpose(),)),), why=why)
    return Step(slot=slot, feeds=(feed,), why=why)


class Block(nn.Module):
    def __init__(self, tie):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.fc1 = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)
        if tie:
            self.fc2.weight = self.fc1.weight

    def forward(self, x):
        return self.bn(self.fc2(self.drop(self.fc1(self.norm(x)))))


class Net(nn.Module):
    def __init__(self, depth, *, tie=False, classes=3):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([Block(tie) for _ in range(depth)])
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        x = self.stem(x) + self.token
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


nets = st.builds(lambda depth, tie: Net(depth, tie=tie), st.integers(0, 3), st.booleans())
fate_lists = st.lists(st.sampled_from(FATES), min_size=1, max_size=7)
