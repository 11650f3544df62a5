"""A first layer as convolution over the image, or as matrix over patches that code cuts with the channels last."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


def cut(image, size):
    """Return patches as rows of [height, width, channels]."""
    patches = image.unfold(1, size, size).unfold(2, size, size)
    return patches.permute(1, 2, 3, 4, 0).reshape(-1, size * size * image.shape[0])


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_both_give_the_same_output(size, turned):
    conv = nn.Sequential(nn.Conv2d(3, 8, size, size), nn.Linear(8, 5))
    matrix = nn.Sequential(nn.Linear(3 * size * size, 8), nn.Linear(8, 5))
    source, target = (matrix, conv) if turned else (conv, matrix)
    report = tg.load(target, source.state_dict(), on_doubt="take")
    image = torch.randn(3, 8, 8)
    assert torch.allclose(matrix[0](cut(image, size)), conv[0](image).flatten(1).T, atol=1e-5)
    stem = next(step for step in report.plan.steps if step.slot.name == "0.weight")
    assert stem.certainty is Certainty.DOUBT
    assert "vit-pytorch" in stem.why.text


@pytest.mark.parametrize("channels", [4, 16])
def test_what_is_no_image_unrolls_as_torch_does(channels):
    matrix, conv = nn.Sequential(nn.Linear(channels * 9, 8)), nn.Sequential(nn.Conv2d(channels, 8, 3))
    tg.load(conv, matrix.state_dict(), on_doubt="take")
    x = torch.randn(1, channels, 3, 3)
    assert torch.allclose(conv(x).flatten(1), matrix(x.flatten(1)), atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kernel", [(2, 4, 4), (1, 4, 4)])
def test_clips_cut_by_hand_are_never_loaded_unasked(kernel, turned):
    conv = nn.Conv3d(3, 8, kernel)
    matrix = nn.Linear(conv.weight[0].numel(), 8)
    source, target = (nn.Sequential(m, nn.Linear(8, 5)) for m in ((matrix, conv) if turned else (conv, matrix)))
    assert tg.plan(target, source.state_dict()).by_slot["0.weight"].certainty is Certainty.DOUBT
    with pytest.raises(tg.PlanRefusedError, match="channels first"):
        tg.load(target, source.state_dict())
    tg.load(target, source.state_dict(), on_doubt="take")
    assert torch.equal(matrix.weight, conv.weight.flatten(1))
