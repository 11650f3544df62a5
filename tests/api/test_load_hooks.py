"""The target's own loading code is honoured: old names that its hooks know find their places."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Renamed(nn.Module):
    """A model whose attribute was once called `old`; its own hook renames old files."""

    def __init__(self):
        super().__init__()
        self.new_name = nn.Linear(3, 4)
        self.other_name = nn.Linear(3, 4)
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module, state_dict, prefix, *rest):
        for old, new in (("zeta", "new_name"), ("eta", "other_name")):
            for role in ("weight", "bias"):
                if prefix + f"{old}.{role}" in state_dict:
                    state_dict[prefix + f"{new}.{role}"] = state_dict.pop(prefix + f"{old}.{role}")


def old_file():
    torch.manual_seed(3)
    return {f"{name}.{role}": torch.randn(4, 3) if role == "weight" else torch.randn(4)
            for name in ("eta", "zeta") for role in ("weight", "bias")}  # fmt: skip


def test_names_that_the_hook_knows_are_certain_though_shapes_and_order_mislead():
    model, given = Renamed(), old_file()
    report = tg.load(model, given)
    assert torch.equal(model.new_name.weight, given["zeta.weight"])
    assert torch.equal(model.other_name.bias, given["eta.bias"])
    assert not report.plan.fresh
    assert list(given) == ["eta.weight", "eta.bias", "zeta.weight", "zeta.bias"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_hook_that_fails_is_a_note_and_no_failure(wrapped):
    model = nn.Sequential(nn.Linear(2, 2))

    def broken(*_):
        raise ValueError("only for files of last year")

    model.register_load_state_dict_pre_hook(broken)
    given = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    tg.load(model, {"model": given} if wrapped else given)
    assert torch.equal(model[0].weight, given["0.weight"])
