"""Models of two encoders, filled one after the other: neither file goes into the encoder that it isn't for without a doubt."""

from __future__ import annotations

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

VISUAL = {"embed": "patch_embed", "list": "blocks", "norm": "norm1", "up": "fc1", "down": "fc2"}
TEXT = {"embed": "words", "list": "layer", "norm": "LayerNorm", "up": "intermediate", "down": "output"}
OTHER = {"embed": "projection", "list": "layers", "norm": "layernorm_before", "up": "mlp_fc1", "down": "mlp_fc2"}


def encoder(words: dict[str, str], first: nn.Module, *, pooled: bool = False) -> nn.ModuleDict:
    blocks = nn.ModuleList(
        nn.ModuleDict({words["norm"]: nn.LayerNorm(8), words["up"]: nn.Linear(8, 12), words["down"]: nn.Linear(12, 8)})
        for _ in range(3)
    )
    return nn.ModuleDict(
        {words["embed"]: first, words["list"]: blocks} | ({"pooler": nn.Linear(8, 8)} if pooled else {})
    )


def model() -> nn.Module:
    visual, text = encoder(VISUAL, nn.Conv2d(3, 8, 2)), encoder(TEXT, nn.Embedding(11, 8), pooled=True)
    return filled(nn.ModuleDict({"visual": visual, "text": text, "head": nn.Linear(16, 3)}))


def sure(plan: tg.Plan) -> dict[str, str]:
    return {s.slot.name: s.feeds[0].key for s in plan.steps if s.feeds and s.certainty is not Certainty.DOUBT}


def test_one_name_of_an_encoder_does_not_draw_a_file_of_another_into_it() -> None:
    file = filled(encoder(OTHER, nn.Conv2d(3, 8, 2), pooled=True)).state_dict()
    placed = sure(tg.plan(model(), file, on_doubt="take"))
    assert not any(name.startswith("text") for name in placed)
    assert placed["visual.patch_embed.weight"] == "projection.weight"


@pytest.mark.parametrize("back", [False, True])
def test_files_of_both_encoders_fill_one_each(*, back: bool) -> None:
    files = {
        "visual": filled(encoder(VISUAL, nn.Conv2d(3, 8, 2))).state_dict(),
        "text": filled(encoder(TEXT, nn.Embedding(11, 8), pooled=True)).state_dict(),
    }
    filled_model = model()
    for name in reversed(files) if back else files:
        tg.load(filled_model, files[name])
    for name, file in files.items():
        assert all(torch.equal(filled_model.state_dict()[f"{name}.{key}"], value) for key, value in file.items())
