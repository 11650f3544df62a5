"""Parts that belong together: a bias whose matrix is lost, experts of which one is, a gain of a single output."""

import pytest
import torch
from torch import nn
from torch.nn.utils import weight_norm

import torchgraft as tg
from torchgraft.core.plan import Certainty


def attention(*names):
    rows = {"qkv_proj": 24}
    return nn.ModuleDict({name: nn.Linear(8, rows.get(name, 8)) for name in (*names, "o_proj")})


def test_a_key_bias_is_zero_where_the_file_has_none_but_not_where_its_matrix_is_lost_too():
    saved = attention("q_proj", "k_proj", "v_proj").state_dict()
    no_bias = {k: v for k, v in saved.items() if k != "k_proj.bias"}
    plan = tg.plan(attention("qkv_proj"), no_bias)
    assert "zeros for k" in plan.by_slot["qkv_proj.bias"].why.text
    plan = tg.plan(attention("qkv_proj"), {k: v for k, v in no_bias.items() if k != "k_proj.weight"})
    assert {"qkv_proj.weight", "qkv_proj.bias"} <= {s.slot.name for s in plan.fresh}


class Stack(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(count, 32, 8))
        self.down_proj = nn.Parameter(torch.randn(count, 8, 16))


def mixture(count, *, stacked, routed=True):
    def expert():
        sizes = {"w1": (8, 16), "w2": (16, 8), "w3": (8, 16)}
        return nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

    def layer():
        experts = Stack(count) if stacked else nn.ModuleList(expert() for _ in range(count))
        router = {"gate": nn.Linear(8, count, bias=False)} if routed else {}
        return nn.ModuleDict({**router, "experts": experts, "norm": nn.LayerNorm(8)})

    return nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(2))})


@pytest.mark.parametrize("routed", [True, False])
@pytest.mark.parametrize("back", [False, True])
def test_a_router_that_goes_over_proves_the_order_of_the_experts(routed, back):
    source, target = mixture(4, stacked=back, routed=routed), mixture(4, stacked=not back, routed=routed)
    plan = tg.load(target, source.state_dict()).plan
    slot = "layers.1.experts.2.w2.weight" if back else "layers.1.experts.down_proj"
    assert plan.by_slot[slot].certainty is (Certainty.CERTAIN if routed else Certainty.LIKELY)
    stack, apart = (source, target) if back else (target, source)
    assert torch.equal(stack["layers"][1]["experts"].down_proj[2], apart["layers"][1]["experts"][2]["w2"].weight)


def test_an_expert_that_lacks_a_matrix_is_named():
    saved = mixture(4, stacked=False).state_dict()
    del saved["layers.1.experts.2.w3.weight"]
    plan = tg.plan(mixture(4, stacked=True), saved)
    assert "lacks expert 2 of 4" in plan.by_slot["layers.1.experts.gate_up_proj"].why.text
    assert not plan.doubtful


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "sizes", "given"),
    [(nn.Conv1d, (4, 1, 7), (2, 4, 9)), (nn.Linear, (4, 1), (2, 4)), (nn.Conv2d, (1, 1, 3), (2, 1, 5, 5))],
)
def test_a_plain_weight_of_one_output_is_split_into_gain_and_direction(kind, sizes, given):
    source, target = kind(*sizes), nn.Sequential(weight_norm(kind(*sizes)))
    tg.load(target, {f"0.{name}": value for name, value in source.state_dict().items()})
    x = torch.randn(given)
    assert torch.allclose(target(x), source(x), atol=1e-5)
