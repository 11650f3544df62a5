"""Modules of a few layers stay together; what has a network below it is no such module."""

import torch
from filling import filled
from torch import nn

import torchgraft as tg


class Positions(nn.Module):
    def __init__(self, name, **parts):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.empty(1, 9, 8)))
        for part, module in parts.items():
            self.add_module(part, module)


def blocks(*names):
    return nn.ModuleList(
        nn.ModuleDict({n: nn.LayerNorm(8) if "norm" in n else nn.Linear(8, 8) for n in names}) for _ in range(2)
    )


def test_a_norm_behind_all_blocks_is_no_part_of_the_embedding_whose_positions_lie_beside_it():
    patches = nn.ModuleDict({"proj": nn.Conv2d(3, 8, 4), "norm": nn.LayerNorm(8)})
    whole = Positions("pos_embed", patch_embed=patches, layers=blocks("norm1", "fc1"), norm=nn.LayerNorm(8))
    source = filled(nn.ModuleDict({"img_encoder": whole})).state_dict()

    patch = nn.ModuleDict({"projection": nn.Conv2d(3, 8, 4)})
    embeddings = Positions("position_embeddings", patch_embeddings=patch, layernorm=nn.LayerNorm(8))
    stages = nn.ModuleDict({"stages": blocks("layer_norm1", "linear1")})
    parts = {"embeddings": embeddings, "encoder": stages, "layernorm": nn.LayerNorm(8)}
    model = nn.ModuleDict({"vision_model": nn.ModuleDict(parts)})

    tg.load(model, source, on_doubt="take")
    assert torch.equal(model["vision_model"]["layernorm"].weight, source["img_encoder.norm.weight"])
    assert torch.equal(embeddings.layernorm.weight, source["img_encoder.patch_embed.norm.weight"])
