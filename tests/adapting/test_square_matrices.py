"""Square matrices, whose shape doesn't show whether they are stored [in, out]: what stands around them does."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH, WORDS = 6, 11


class Stored(nn.Module):
    """A layer that keeps its weight [in, out]."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))


class Decoder(nn.Module):
    """Blocks of one kind of layer, and an output layer of another."""

    def __init__(self, layer, *, last=nn.Linear, wide=2 * WIDTH):
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": layer(WIDTH, wide), "down": layer(wide, WIDTH), "mix": layer(WIDTH, WIDTH)})
            for _ in range(2)
        )
        self.head = last(WIDTH, WORDS)


@pytest.mark.parametrize(("last", "turned"), [(nn.Linear, False), (Stored, True)])
def test_layers_of_the_same_list_tell_though_the_output_layer_is_stored_otherwise(last, turned):
    file, model = Decoder(Stored), Decoder(nn.Linear)
    state = file.state_dict()
    if last is nn.Linear:
        state["head.weight"] = torch.randn(WORDS, WIDTH)
    else:
        state["head.weight"] = torch.randn(WIDTH, WORDS)
    plan = tg.load(model, state).plan
    assert torch.equal(model.head.weight, state["head.weight"].T if turned else state["head.weight"])
    for n in range(2):
        assert torch.equal(model.blocks[n]["mix"].weight, state[f"blocks.{n}.mix.weight"].T)
    assert plan.by_name["blocks.0.mix.weight"].certainty is (Certainty.CERTAIN if turned else Certainty.LIKELY)


def test_a_list_that_shows_nothing_leaves_its_squares_in_doubt():
    file, model = Decoder(Stored, wide=WIDTH), Decoder(nn.Linear, wide=WIDTH)
    state = file.state_dict() | {"head.weight": torch.randn(WORDS, WIDTH), "stem.weight": torch.randn(3, WIDTH)}
    model.stem = nn.Linear(3, WIDTH, bias=False)
    with pytest.raises(tg.PlanRefusedError, match="1 matrix of the file is stored transposed and 1 is not"):
        tg.load(model, state)


def test_one_turned_matrix_beside_kernels_as_in_torch_turns_no_square_one():
    model = nn.ModuleDict({"conv": nn.Conv2d(4, 5, 3), "project": nn.Linear(8, 8), "out": nn.Linear(8, 1)})
    state = nn.ModuleDict({"conv": nn.Conv2d(4, 5, 3), "project": nn.Linear(8, 8), "out": nn.Linear(8, 1)}).state_dict()
    state["out.weight"] = state["out.weight"].T.contiguous()
    with pytest.raises(tg.PlanRefusedError, match="1 matrix of the file is stored transposed and kernels \\(1\\) are"):
        tg.load(model, state)


def test_one_turned_layer_of_a_list_turns_no_square_one_where_the_bias_of_another_shows_the_contrary():
    def layers(outputs):
        return nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, outputs))

    state = layers(6).state_dict()
    state["0.weight"] = state["0.weight"].T.contiguous()
    model = nn.ModuleDict({"net": layers(3)})
    with pytest.raises(tg.PlanRefusedError, match="1 matrix of the file is stored transposed and 1 is not"):
        tg.load(model, {f"net.{name}": value for name, value in state.items()})


def test_matrices_of_one_place_that_disagree_settle_no_square_one():
    def layers():
        return nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    state = nn.ModuleDict({"actor": layers(), "critic": layers()}).state_dict()
    state |= {name: state[name].T.contiguous() for name in ("actor.0.weight", "critic.4.weight")}
    with pytest.raises(tg.PlanRefusedError, match="2 matrices of the file are stored transposed and 2 are not"):
        tg.load(nn.ModuleDict({"actor": layers(), "critic": layers()}), state)


def test_a_layer_whose_sizes_changed_places_is_not_turned():
    """The bias beside it is as long as its rows: they are outputs, and the other layer makes others of other inputs."""
    file, model = (nn.ModuleDict({"enter": nn.Linear(*sizes), "deep": nn.Linear(4, 5)}) for sizes in ((8, 10), (10, 8)))
    plan = tg.load(model, file).plan
    assert {step.slot.name for step in plan.fresh} == {"enter.weight", "enter.bias"}
    assert "the bias beside it shows that it isn't stored transposed" in plan.by_name["enter.weight"].why.text


def test_a_layer_that_is_stored_transposed_is_turned_whatever_its_bias():
    file = {"enter.weight": torch.randn(8, 10), "enter.bias": torch.randn(10)}
    model = nn.ModuleDict({"enter": nn.Linear(8, 10)})
    tg.load(model, file)
    assert torch.equal(model["enter"].weight, file["enter.weight"].T)


@pytest.mark.parametrize(("role", "sure"), [("weight", False), ("kernel", True)])
def test_a_matrix_that_fits_only_turned_is_in_doubt_beside_one_that_is_not(role, sure):
    file = {f"fc_out.{role}": torch.randn(6, 9), "out.weight": torch.randn(5, 9), "out.bias": torch.randn(5)}
    model = nn.ModuleDict({"fc_in": nn.Linear(6, 9, bias=False), "out": nn.Linear(9, 5)})
    [step] = [step for step in tg.plan(model, file).steps if step.slot.name == "fc_in.weight"]
    assert [feed.key for feed in step.feeds] == [f"fc_out.{role}"]
    assert (step.certainty is not Certainty.DOUBT) == sure
