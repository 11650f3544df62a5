"""Small models, one for each thing that a load may break."""

from __future__ import annotations

import torch
from torch import nn


class Tied(nn.Module):
    """Input and output share one parameter, and a second name leads to the first one's bias."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.again = self.body


class TiedStorage(nn.Module):
    """Two Parameter objects on one storage."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = nn.Parameter(self.one.weight.data)


class Masked(nn.Module):
    """A buffer of -inf, a hidden buffer, a bool one and a scalar."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.scale = nn.Parameter(torch.tensor(2.0))


def conv():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))


def channels_last():
    return conv().to(memory_format=torch.channels_last)


def half():
    return conv().to(torch.bfloat16)


def strided():
    model = nn.Linear(5, 7)
    model.weight = nn.Parameter(torch.randn(5, 14).t()[::2])
    return model


def parallel():
    return nn.DataParallel(conv())


def frozen():
    model = conv()
    model[0].requires_grad_(False)
    model(torch.randn(2, 3, 3, 3)).sum().backward()
    return model


ALL = [conv, channels_last, half, strided, parallel, frozen, Tied, TiedStorage, Masked]
