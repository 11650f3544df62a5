"""Models that the command-line tests name as module:callable."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
        self.head = nn.Linear(8, classes)


class NoMeta(Net):
    def __init__(self):
        super().__init__()
        self.scale = torch.ones(1).item()


made = Net(3)


def broken():
    raise ValueError("no\nway")


def number():
    return 3
