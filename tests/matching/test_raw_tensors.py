"""Weights and biases that are raw tensors of their owner, beside modules that hold the same."""

import pytest
import torch
from torch import nn

import torchgraft as tg

SHAPES = {
    "enc_emb": (9, 4), "enc_w_ih": (12, 4), "enc_w_hh": (12, 4), "enc_b_ih": (12,), "enc_b_hh": (12,),
    "dec_emb": (7, 4), "dec_w_ih": (12, 4), "dec_w_hh": (12, 4), "dec_b_ih": (12,), "dec_b_hh": (12,),
    "fc_w": (7, 4), "fc_b": (7,),
}  # fmt: skip


class Reader(nn.Module):
    """The same network of modules, decoder first."""

    def __init__(self):
        super().__init__()
        for name, count in (("decoder", 7), ("encoder", 9)):
            part = nn.ModuleDict({"embedding": nn.Embedding(count, 4), "gru": nn.GRU(4, 4)})
            self.add_module(name, part)
        self.proj = nn.Linear(4, 7)


def test_raw_tensors_of_a_recurrent_network_find_their_modules():
    state = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    model = Reader()
    tg.load(model, state, on_doubt="take")
    for short, long in (("enc", "encoder"), ("dec", "decoder")):
        part = getattr(model, long)
        assert torch.equal(part["embedding"].weight, state[f"{short}_emb"])
        for ours, theirs in (("w", "weight"), ("b", "bias")):
            for kind in ("ih", "hh"):
                assert torch.equal(getattr(part["gru"], f"{theirs}_{kind}_l0"), state[f"{short}_{ours}_{kind}"])
    assert torch.equal(model.proj.weight, state["fc_w"])
    assert torch.equal(model.proj.bias, state["fc_b"])


@pytest.mark.parametrize("ends", [("_w", "_b"), ("_weight", "_bias")])
def test_weight_and_bias_stay_together(ends):
    sizes = {"first": (8, 4), "second": (8, 8), "third": (8, 8), "last": (3, 8)}
    state: dict[str, torch.Tensor] = {}
    for name, shape in sizes.items():
        state[name + ends[0]], state[name + ends[1]] = torch.randn(shape), torch.randn(shape[0])
    model = nn.ModuleDict({name: nn.Linear(*reversed(shape)) for name, shape in sizes.items()})
    tg.load(model, state)
    for name in sizes:
        assert torch.equal(model[name].weight, state[name + ends[0]])
        assert torch.equal(model[name].bias, state[name + ends[1]])


@pytest.mark.parametrize("turned", [False, True])
def test_a_square_matrix_is_stored_as_the_others_are(turned):
    sizes = {"first": (8, 4), "second": (8, 8)}
    state = {f"{name}_w": torch.randn(shape) for name, shape in sizes.items()}
    state |= {f"{name}_b": torch.randn(8) for name in sizes}
    model = nn.ModuleDict({name: nn.Linear(*reversed(shape)) for name, shape in sizes.items()})
    tg.load(model, {k: v.mT if turned and v.ndim > 1 else v for k, v in state.items()})
    assert torch.equal(model["second"].weight, state["second_w"])


def test_square_matrices_alone_don_t_say_how_they_are_stored():
    state = {f"{name}_{end}": torch.randn((8, 8) if end == "w" else 8) for name in ("first", "second") for end in "wb"}
    model = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("first", "second")})
    plan = tg.plan(model, state)
    assert {s.slot.name for s in plan.doubtful} == {"first.weight", "second.weight"}
