"""What a report says of the comparison after writing: how many tensors, and how closely each was looked at."""

import pytest
import torch
from torch import nn

import torchgraft as tg

SAMPLED = "by its first, middle and last page"


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ([2], "1 tensor compared after writing, in full"),
        ([2, 3], "2 tensors compared after writing, all in full"),
        ([2, 100], f"2 tensors compared after writing: 1 in full, 1 {SAMPLED}"),
        ([100], f"1 tensor compared after writing {SAMPLED}"),
    ],
)
def test_the_check_says_how_much_of_the_tensors_was_compared(tmp_path, widths, said):
    model = nn.ModuleList(nn.Linear(width, width, bias=False) for width in widths)
    tg.save(tmp_path / "file.safetensors", {name: torch.randn_like(v) for name, v in model.state_dict().items()})
    (check,) = tg.load(model, tmp_path / "file.safetensors").checks
    assert check.passed
    assert check.text == said
