"""Random models, with values that are all distinct, so that a wrong placement can't hide behind an equal value."""

import torch
from hypothesis import strategies as st
from torch import nn


class Block(nn.Module):
    def __init__(self, width, *, norm, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)


class Net(nn.Module):
    def __init__(self, *, widths, depth, norm, classes, tied):
        super().__init__()
        channels = [3, *widths]
        self.stem = nn.Sequential(
            *[
                layer
                for a, b in zip(channels, widths, strict=False)
                for layer in (nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.ReLU())
            ]
        )
        self.blocks = nn.ModuleList(Block(widths[-1], norm=norm, hidden=widths[-1] + 2) for _ in range(depth))
        self.embed = nn.Embedding(classes, widths[-1])
        self.head = nn.Linear(widths[-1], classes, bias=False)
        if tied:
            self.head.weight = self.embed.weight


def filled(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


settings_of_nets = st.fixed_dictionaries(
    {
        "widths": st.lists(st.integers(3, 9), min_size=1, max_size=3),
        "depth": st.integers(0, 4),
        "norm": st.booleans(),
        "classes": st.integers(2, 7),
        "tied": st.booleans(),
    }
)


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
