"""Files of JAX may hold the layers of a list in one tensor each (nn.scan): they have no place, and are told for what they are."""

from __future__ import annotations

import torch
from torch import nn

import torchgraft as tg


def test_tensors_of_all_layers_in_one_are_told_to_be_such() -> None:
    layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(6, 9), "norm": nn.LayerNorm(6)}) for _ in range(4))
    model = nn.ModuleDict({"embed": nn.Embedding(50, 6), "layers": layers})
    file = {
        "embed.embedding": torch.rand(50, 6),
        "layers.up.kernel": torch.rand(4, 6, 9),
        "layers.norm.scale": torch.rand(4, 6),
    }
    fresh = tg.plan(model, file).by_slot
    for name in ("layers.2.up.weight", "layers.3.norm.weight"):
        assert fresh[name].why.text.endswith(
            "in the model: 4 of its kind in one, as of all layers, which are not taken apart"
        )
