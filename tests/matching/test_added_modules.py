"""What was added to a model keeps its values where its tensors are called as the file's, at any depth of both sides."""

import pytest
from filling import filled
from torch import nn

import torchgraft as tg


def encoder(more):
    def conv():
        return nn.Conv2d(4, 4, 3)

    return nn.ModuleDict({"conv_in": conv(), "down": nn.ModuleList([conv(), conv()]), **more})


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.ModuleDict({"net": m, "other": nn.Linear(4, 4)})])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_an_added_module_is_not_filled_with_what_is_left_of_the_file(wrap, prefix):
    """As in ControlNet: its own conv_in and conv_out beside the encoder, which has no conv_out; the file's is a decoder's."""
    added = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "conv_out": nn.Conv2d(4, 4, 3)})
    model = filled(wrap(encoder({"condition": added})))
    state = filled(wrap(encoder({"conv_out": nn.Conv2d(4, 4, 3)}))).state_dict()
    plan = tg.plan(model, {prefix + name: value for name, value in state.items()})
    kept = [step.slot.name for step in plan.fresh]
    assert all(".condition." in f".{name}" for name in kept)
    assert len(kept) == 4


def test_the_same_where_a_map_sends_one_network_to_two():
    added = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "conv_out": nn.Conv2d(4, 4, 3)})
    whole = encoder({"conv_out": nn.Conv2d(4, 4, 3)})
    model = filled(nn.ModuleDict({"unet": whole, "control": encoder({"condition": added})}))
    state = filled(encoder({"conv_out": nn.Conv2d(4, 4, 3)})).state_dict()
    plan = tg.plan(
        model, {f"model.{name}": value for name, value in state.items()}, fan_out={"model": ["unet", "control"]}
    )
    assert [s.slot.name for s in plan.fresh] == [
        f"control.condition.{m}.{p}" for m in added for p in ("weight", "bias")
    ]
