"""A logarithm is no value: where only one side's name says that it is one, nothing is certain."""

import pytest
import torch
from scoring import Case, decided
from torch import nn

import torchgraft as tg


class Policy(nn.Module):
    """A network, and how far its actions are spread, under some name."""

    def __init__(self, name):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.register_parameter(name, nn.Parameter(torch.randn(3)))


def saved(name):
    state = Policy(name).state_dict()
    return {f"actor.{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("file", "here"),
    [
        ("log_std", "std"),
        ("std", "log_std"),
        ("inv_scale", "scale"),
        ("action_std", "action_var"),
        ("logvar", "log_std"),
    ],
)
def test_a_logarithm_for_a_value_is_in_doubt(file, here):
    with pytest.raises(tg.PlanRefusedError, match="in doubt"):
        tg.load(Policy(here), saved(file))


@pytest.mark.parametrize(("file", "here"), [("log_std", "log_std"), ("logstd", "log_std")])
def test_a_logarithm_for_a_logarithm_is_not(file, here):
    values, target = saved(file), Policy(here)
    tg.load(target, values)
    assert torch.equal(getattr(target, here), values[f"actor.{file}"])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["running_std", "moving_stddev", "running_inv_std", "running_max", "rms"])
def test_deviations_and_other_statistics_are_no_variances(name, count):
    """Batch renormalisation keeps deviations (https://github.com/ludvb/batchrenorm)."""
    norms = [nn.Sequential(nn.Conv2d(3 + at, 4 + at, 3), nn.BatchNorm2d(4 + at)) for at in range(count)]
    model = nn.Sequential(*norms, nn.Flatten(), nn.Linear(4, 2))
    file = {key.replace("running_var", name): value for key, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match=rf"1.running_var.* <- .*{name}.* in doubt"):
        tg.load(model, file)


class Block(nn.Module):
    """A layer, and a vector beside it under some name."""

    def __init__(self, layer, vector):
        super().__init__()
        self.add_module(layer, nn.Linear(6, 6))
        self.norm = nn.LayerNorm(6)
        self.register_parameter(vector, nn.Parameter(torch.randn(5)))


def blocks(layer, vector):
    return nn.Sequential(*[Block(layer, vector) for _ in range(3)], nn.Linear(6, 2))


@pytest.mark.parametrize("layer", ["fc", "proj_in"])
@pytest.mark.parametrize(("file", "here"), [("A_log", "A"), ("log_scale", "scale"), ("scale", "scale_log")])
def test_nor_is_one_in_every_block_whose_other_layers_agree(layer, file, here):
    with pytest.raises(tg.PlanRefusedError, match="in doubt"):
        tg.load(blocks(layer, here), blocks("fc", file).state_dict())


class Gives(nn.Module):
    """A layer, and one beside it that gives a value under some name."""

    def __init__(self, layer, value):
        super().__init__()
        self.add_module(layer, nn.Linear(6, 6))
        self.add_module(value, nn.Linear(6, 5))


def givers(layer, value):
    return nn.Sequential(*[Gives(layer, value) for _ in range(3)], nn.Linear(6, 2))


@pytest.mark.parametrize("layer", ["fc", "proj_in"])
@pytest.mark.parametrize(
    ("file", "here"), [("log_std", "std"), ("scale_proj", "log_scale_proj"), ("to_logvar", "to_var")]
)
def test_nor_is_a_layer_that_gives_one(layer, file, here):
    with pytest.raises(tg.PlanRefusedError, match="in doubt"):
        tg.load(givers(layer, here), givers("fc", file).state_dict())


@pytest.mark.parametrize(
    ("file", "here"), [("to_log_var", "to_logvar"), ("log_std", "logstd"), ("logsigma", "log_sigma")]
)
def test_two_spellings_of_a_logarithm_are_one(file, here):
    values, target = givers("fc", file).state_dict(), givers("proj_in", here)
    tg.load(target, values)
    assert torch.equal(target[1].get_submodule(here).weight, values[f"1.{file}.weight"])


@pytest.mark.parametrize(
    ("file", "here"), [("norm.shift", "norm.weight"), ("norm.loc", "norm.scale"), ("beta", "gamma"), ("gain", "offset")]
)
def test_what_is_added_is_nothing_to_multiply_with(file, here):
    def shapes(vector):
        made = {
            f"layers.{at}.{name}": [8, 6][:size] for at in range(3) for name, size in (("fc.weight", 2), (vector, 1))
        }
        return {**made, "head.weight": [2, 8]}

    found = decided(Case(shapes(file), shapes(here)))
    assert [sure for slot, (_, sure) in found.items() if slot.endswith(here)] == 3 * ["doubt"]


@pytest.mark.parametrize(("file", "here", "told"), [("A_log", "A", True), ("A_log", "log_A", False), ("a", "b", False)])
def test_what_the_caller_says_of_a_logarithm_is_done_and_told(file, here, told):
    plan = tg.plan(
        {here: torch.ones(4), "w": torch.ones(3)}, {file: torch.ones(4), "w": torch.ones(3)}, rename={file: here}
    )
    assert not plan.refusals
    assert any(f"{here} <- {file}" in note and "a logarithm" in note for note in plan.notes) == told
