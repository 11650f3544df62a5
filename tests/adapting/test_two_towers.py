"""Models of images and text: each position table is resized as its own tower's rows mean it."""

import pytest
import torch
from torch import nn

import torchgraft as tg

WIDTH = 6


class Vision(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 4, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(side * side + 1, WIDTH))


class AtTheRoot(nn.Module):
    """As CLIP has it: the tables of the text lie beside the module of the images."""

    text = "positional_embedding"

    def __init__(self, length, side):
        super().__init__()
        self.visual = Vision(side)
        self.positional_embedding = nn.Parameter(torch.randn(length, WIDTH))
        self.token_embedding = nn.Embedding(50, WIDTH)


class SideBySide(nn.Module):
    """As transformers has it: each tower is a module."""

    text = "text_model.position_embedding.weight"

    def __init__(self, length, side):
        super().__init__()
        self.visual = Vision(side)
        self.text_model = nn.Module()
        self.text_model.position_embedding = nn.Embedding(length, WIDTH)
        self.text_model.token_embedding = nn.Embedding(50, WIDTH)


class Mixed(nn.Module):
    """As ViLT has it: words, their kinds and patches are put into one row; the images' table lies next to the kinds."""

    def __init__(self, side):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.position_embeddings = nn.Parameter(torch.randn(1, side * side + 1, WIDTH))
        self.embeddings.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.embeddings.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.embeddings.patch_embeddings = nn.Module()
        self.embeddings.patch_embeddings.projection = nn.Conv2d(3, WIDTH, 4)
        self.embeddings.text_embeddings = nn.Module()
        self.embeddings.text_embeddings.word_embeddings = nn.Embedding(50, WIDTH)


@pytest.mark.parametrize("kind", [AtTheRoot, SideBySide])
@pytest.mark.parametrize(("old", "new"), [(77, 8), (77, 100), (64, 16), (16, 64), (65, 17)])
def test_texts_are_filled_from_the_start_though_images_have_a_grid(kind, old, new):
    file, model = kind(old, 4), kind(new, 7)
    before = model.state_dict()[kind.text].clone()
    plan = tg.load(model, file).plan
    was, table = file.state_dict()[kind.text], model.state_dict()[kind.text]
    kept = min(old, new)
    assert torch.equal(table[:kept], was[:kept]), "no square of positions, though their number is one"
    assert torch.equal(table[kept:], before[kept:])
    assert "4x4 -> 7x7, 1 prefix row exact, as timm does it" in plan.by_name["visual.positional_embedding"].why.text


def test_kinds_of_tokens_are_no_words():
    file, model = Mixed(4), Mixed(7)
    plan = tg.load(model, file).plan
    assert "4x4 -> 7x7, 1 prefix row exact" in plan.by_name["embeddings.position_embeddings"].why.text


class Video(nn.Module):
    def __init__(self, rows, name="pos_embed", depth=2):
        super().__init__()
        self.patch_embed = nn.Conv3d(3, WIDTH, (depth, 4, 4))
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.register_parameter(name, nn.Parameter(torch.randn(1, rows, WIDTH)))


@pytest.mark.parametrize(("old", "new"), [(784, 3136), (1568, 784), (216, 64)])
def test_positions_of_volumes_are_in_doubt(old, new):
    with pytest.raises(tg.PlanRefusedError, match="of volumes, whose sides no name tells"):
        tg.load(Video(new), Video(old))
    grids = {"pos_embed": ((old // 4, 4), (new // 4, 4))}
    assert not tg.load(Video(new), Video(old), grids=grids).plan.fresh


def test_frames_are_no_grid_and_planes_are_one():
    model = Video(16, "temporal_pos_embed")
    before = model.temporal_pos_embed.detach().clone()
    report = tg.load(model, Video(4, "temporal_pos_embed"))
    assert torch.equal(model.temporal_pos_embed, before)
    assert "4 frames in the file, 16 in the model: grids={'temporal_pos_embed': ((1, 4), (1, 16))} resamples" in str(
        report
    )
    tg.load(model, Video(4, "temporal_pos_embed"), grids={"temporal_pos_embed": ((1, 4), (1, 16))})
    assert not torch.equal(model.temporal_pos_embed, before)
    for name, depth in (("pos_embed_spatial", 2), ("pos_embed", 1)):
        plan = tg.plan(Video(50, name, depth), Video(17, name, depth))
        assert "4x4 -> 7x7, 1 prefix row exact" in plan.by_name[name].why.text
