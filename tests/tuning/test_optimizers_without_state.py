"""An optimizer that keeps nothing of any parameter leaves nothing to carry over, and that is said."""

import pytest
import torch
from torch import nn

import torchgraft as tg


@pytest.mark.parametrize("keep", [lambda state: {"optimizer": state}, lambda state: {"optimizer_states": [state]}])
def test_an_optimizer_that_keeps_nothing_is_told_from_a_file_without_one(keep):
    old = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    kept = {"model": old.state_dict(), "optimizer": torch.optim.SGD(old.parameters(), lr=0.1).state_dict()}
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    report = tg.load(model, kept["model"])
    with pytest.raises(tg.UsageError, match="its optimizer had none yet: SGD without momentum keeps none"):
        tg.optimizer_state(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            report,
            {"model": kept["model"], **keep(kept["optimizer"])},
        )
