"""Fused projections under names that don't tell: the parts on the other side show what they are."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH, HIDDEN = 12, 20


def layers(**shapes):
    return nn.ModuleDict({name: nn.Linear(columns, rows, bias=False) for name, (rows, columns) in shapes.items()})


class Apart(nn.Module):
    def __init__(self, kv=WIDTH):
        super().__init__()
        square, low = (WIDTH, WIDTH), (kv, WIDTH)
        made = [
            nn.ModuleDict({
                "attn": layers(q_proj=square, k_proj=low, v_proj=low, o_proj=square), "norm": nn.LayerNorm(WIDTH),
                "mlp": layers(gate_proj=(HIDDEN, WIDTH), up_proj=(HIDDEN, WIDTH), down_proj=(WIDTH, HIDDEN)),
            })
            for _ in range(2)
        ]  # fmt: skip
        self.layers = nn.ModuleList(made)


class Fused(nn.Module):
    def __init__(self, attention, network, kv=WIDTH):
        super().__init__()
        made = [
            nn.ModuleDict({
                "attn": layers(**{attention: (WIDTH + 2 * kv, WIDTH), "out": (WIDTH, WIDTH)}),
                "norm": nn.LayerNorm(WIDTH),
                "mlp": layers(**{network: (2 * HIDDEN, WIDTH), "last": (WIDTH, HIDDEN)}),
            })
            for _ in range(2)
        ]  # fmt: skip
        self.blocks = nn.ModuleList(made)


@pytest.mark.parametrize("kv", [12, 4, 14])
@pytest.mark.parametrize("joins", [False, True])
def test_unknown_names_are_cut_in_the_usual_order_and_in_doubt(kv, joins):
    apart, fused = Apart(kv), Fused("packed", "first", kv)
    source, target = (apart, fused) if joins else (fused, apart)
    with pytest.raises(tg.PlanRefusedError, match="no name tells in which order they stand"):
        tg.load(target, source.state_dict())
    report = tg.load(target, source.state_dict(), on_doubt="take")
    assert not report.plan.fresh
    for one, other in zip(apart.layers, fused.blocks, strict=True):
        parts = [one["attn"][f"{part}_proj"].weight for part in "qkv"]
        assert torch.equal(torch.cat(parts), other["attn"]["packed"].weight)
        parts = [one["mlp"][f"{part}_proj"].weight for part in ("gate", "up")]
        assert torch.equal(torch.cat(parts), other["mlp"]["first"].weight)


def test_names_with_an_entry_go_by_it_and_are_likely():
    apart, fused = Apart(), Fused("W_pack", "ff_proj")
    plan = tg.load(apart, fused.state_dict(), on_doubt="take").plan
    steps = [plan.by_slot[f"layers.0.{name}_proj.weight"] for name in ("attn.q", "mlp.up")]
    assert [step.certainty for step in steps] == [Certainty.LIKELY] * 2
    assert "as in Baichuan" in steps[0].why.text
    assert "as in OLMo" in steps[1].why.text
    up, gate = fused.blocks[1]["mlp"]["ff_proj"].weight.chunk(2)
    assert torch.equal(apart.layers[1]["mlp"]["up_proj"].weight, up)
    assert torch.equal(apart.layers[1]["mlp"]["gate_proj"].weight, gate)


def test_a_layer_of_the_same_height_is_no_fused_one_where_the_other_side_has_it_too():
    file = {"a.fc1.weight": torch.randn(36, 12), "a.fc2.weight": torch.randn(12, 36)}
    file |= {f"b.{part}.weight": torch.randn(12, 12) for part in "qkvo"}
    model = nn.ModuleDict({"x": layers(one=(36, 12), two=(12, 36)), "y": layers(**dict.fromkeys("qkvo", (12, 12)))})
    tg.load(model, file, on_doubt="take")
    assert torch.equal(model["x"]["one"].weight, file["a.fc1.weight"])


def test_keys_and_values_of_few_heads_are_no_matrix_on_its_side():
    file = {"attn.q.weight": torch.randn(32, 32), "attn.k.weight": torch.randn(8, 32)}
    file |= {"attn.v.weight": torch.randn(8, 32), "attn.o.weight": torch.randn(32, 32)}
    model = nn.ModuleDict({"attention": layers(q=(32, 32), kv=(16, 32), proj=(32, 32))})
    tg.load(model, file)
    assert torch.equal(model["attention"]["kv"].weight, torch.cat([file["attn.k.weight"], file["attn.v.weight"]]))


def test_square_matrices_are_turned_like_those_of_their_own_kind_of_layer():
    class Conv1D(nn.Module):  # as transformers stores the layers of GPT-2: [in, out]
        def __init__(self, columns, rows):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(columns, rows))

    square = nn.ModuleDict({"up": Conv1D(8, 16), "down": Conv1D(16, 8), "o": Conv1D(8, 8), "head": nn.Linear(8, 30)})
    file = {"up.weight": torch.randn(16, 8), "down.weight": torch.randn(8, 16), "o.weight": torch.randn(8, 8)}
    file |= {"head.weight": torch.randn(30, 8), "head.bias": torch.randn(30)}
    tg.load(square, file)
    assert torch.equal(square["o"].weight, file["o.weight"].T)
