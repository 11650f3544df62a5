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


class Extra(nn.Linear):
    """State beside the tensors, and something that is worked out while loading."""

    def get_extra_state(self):
        return {"scale": 2.0}

    def set_extra_state(self, state):
        self.scale = state["scale"]

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self.folded = self.weight.detach() * 2


class Doubling(nn.Sequential):
    def load_state_dict(self, state, *args, **kwargs):
        return super().load_state_dict({key: value * 2 for key, value in state.items()}, *args, **kwargs)


def test_what_loading_code_would_do_besides_is_told():
    model = Doubling(Extra(3, 3), nn.Linear(3, 3))
    model[0].folded = before = torch.zeros(1)
    model[1].register_load_state_dict_post_hook(lambda module, keys: None)
    notes = "\n".join(tg.load(model, Doubling(Extra(3, 3), nn.Linear(3, 3)).state_dict()).plan.notes)
    assert "state beside the tensors of 0 (set_extra_state) is not loaded" in notes
    assert "also sets folded of 0: torchgraft leaves it as it is" in notes
    assert "code that 1 would run after load_state_dict (post hooks) is not run" in notes
    assert "Doubling has a load_state_dict of its own: it is not called" in notes
    assert model[0].folded is before


def test_models_without_such_code_have_nothing_told():
    for model in (
        nn.LSTM(3, 3),
        nn.MultiheadAttention(4, 2),
        nn.DataParallel(nn.BatchNorm1d(3)),
        torch.compile(nn.Linear(3, 3)),
    ):
        assert tg.load(model, model.state_dict()).plan.notes == ()


class Turning(nn.Linear):
    """Saves its weight the other way round, or in another type, as `how` says."""

    def __init__(self, how):
        super().__init__(3, 3)
        self.how = how

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return state | {"weight": self.how(state["weight"])}


@pytest.mark.parametrize("how", [torch.Tensor.t, torch.Tensor.half, torch.Tensor.flatten])
def test_a_state_dict_that_gives_another_form_is_told(how):
    notes = tg.plan(Turning(how), {"weight": torch.randn(3, 3), "bias": torch.randn(3)}).notes
    assert any("state_dict() of Turning gives weight in another form" in note for note in notes)


@pytest.mark.parametrize("how", [torch.Tensor.clone, torch.Tensor.detach, lambda weight: weight])
def test_a_state_dict_that_gives_the_same_or_copies_has_nothing_told(how):
    assert not tg.plan(Turning(how), {"weight": torch.randn(3, 3), "bias": torch.randn(3)}).notes
