"""Tables of positions in models whose patches no convolution cuts: a grid, or a text, as their sizes and words beside them say."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


class Net(nn.Module):
    def __init__(self, rows, *, tokens=0, words=False, patches=True):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, rows, 8))
        if tokens:
            self.cls_token = nn.Parameter(torch.randn(1, tokens, 8))
        if patches:
            self.to_patch_embedding = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 8))
        if words:
            self.token_embed = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))


@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize(("old", "new", "tokens"), [(197, 257, 1), (257, 197, 1), (196, 256, 0), (256, 196, 0)])
def test_grids_are_no_texts(old, new, tokens, patches):
    old, new = Net(old, tokens=tokens, patches=patches), Net(new, tokens=tokens, patches=patches)
    with pytest.raises(
        tg.PlanRefusedError, match=r"pos_embed .* they may be grids, .* grids={'pos_embed': \(\(\d+, \d+\)"
    ):
        tg.load(new, old.state_dict())
    sides = {197: (14, 14), 257: (16, 16), 196: (14, 14), 256: (16, 16)}
    grids = tuple(sides[one.pos_embed.shape[1]] for one in (old, new))
    step = tg.load(new, old.state_dict(), grids={"pos_embed": grids}).plan.by_slot["pos_embed"]
    assert "bicubic" in step.words()
    assert step.certainty is Certainty.CERTAIN
    torch.testing.assert_close(new.pos_embed[:, :tokens], old.pos_embed[:, :tokens])


@pytest.mark.parametrize(
    ("old", "new", "words"), [(256, 1024, True), (1024, 256, True), (512, 1024, False), (1024, 2048, False)]
)
def test_texts_are_no_grids(old, new, words):
    old, new = (Net(rows, words=words, patches=False) for rows in (old, new))
    kept = min(old.pos_embed.shape[1], new.pos_embed.shape[1])
    tg.load(new, old.state_dict())
    assert torch.equal(new.pos_embed[:, :kept], old.pos_embed[:, :kept])


def test_words_of_another_tower_are_none_of_the_patches():
    def towers(rows):
        return nn.ModuleDict({"visual": Net(rows), "text": Net(77, words=True, patches=False)})

    plan = tg.plan(towers(1024), towers(256).state_dict())
    assert [step.slot.name for step in plan.doubtful] == ["visual.pos_embed"]
