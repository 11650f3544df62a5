"""What the other blocks of a list, or a layer of other sizes beside it, say against a pair that fits by itself."""

from __future__ import annotations

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter beside it."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, layer.out_features, bias=False)})


def policy(outputs: int, *, rank: int = 0) -> nn.Module:
    """Return two networks for actions and values, their layers with adapters where a rank is given."""

    def network(last: int) -> nn.Sequential:
        layers = [nn.Linear(*size) for size in ((5, 8), (8, 8), (8, last))]
        return nn.Sequential(*(Adapted(layer, rank) if rank else layer for layer in layers))

    return filled(nn.ModuleDict({"actor": network(outputs), "critic": network(1)}))


def is_loaded_or_doubt(model: nn.Module, file: dict[str, torch.Tensor], own: dict[str, str]) -> bool:
    """Return whether a plan feeds no slot from another tensor than its `own`, unless it says that it doubts it."""
    return all(
        step.certainty is Certainty.DOUBT or {feed.key for feed in step.feeds} <= {own.get(step.slot.name, "")}
        for step in tg.plan(model, file).steps
    )


@pytest.mark.parametrize("rank", [2, 3])
def test_an_adapter_takes_no_layer_of_its_shape(rank: int) -> None:
    file = policy(rank).state_dict()
    model = policy(rank + 1, rank=rank)
    own = {name: name.replace("base_layer.", "") for name in model.state_dict()}
    assert is_loaded_or_doubt(model, file, own)


class Block(nn.Module):
    """A feed-forward block; a scale for its output where wanted."""

    def __init__(self, *, bias: bool = True, scaled: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.ModuleDict({"up": nn.Linear(6, 9), "down": nn.Linear(9, 6, bias=bias)})
        if scaled:
            self.gamma = nn.Parameter(torch.zeros(6))


def test_a_bias_that_one_block_lacks_is_no_scale_that_all_have() -> None:
    file = filled(nn.ModuleDict({"h": nn.ModuleList(Block() for _ in range(3))}))
    model = nn.ModuleDict({"h": nn.ModuleList(Block(bias=at < 2, scaled=True) for at in range(3))})
    plan = tg.load(model, file.state_dict()).plan
    assert {step.slot.name for step in plan.fresh} == {f"h.{at}.gamma" for at in range(3)}
    assert [tensor.spec.name for tensor in plan.unused] == ["h.2.mlp.down.bias"]


def test_a_head_is_not_the_first_of_several_layers_also_behind_a_prefix() -> None:
    def body() -> nn.ModuleDict:
        layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
        return nn.ModuleDict({"embed": nn.Embedding(11, 8), "layers": layers, "norm": nn.LayerNorm(8)})

    source = filled(nn.ModuleDict({**body(), "out": nn.Linear(8, 9)}))
    file = {
        name: value.T if value.dim() == 2 and "embed" not in name else value
        for name, value in source.state_dict().items()
    }
    model = nn.ModuleDict({"trunk": body(), "out": nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 11))})
    plan = tg.plan(model, file)
    assert plan.by_name["out.0.weight"].certainty is Certainty.DOUBT
    assert plan.refusals


def double(cin: int, *, more: bool = False) -> nn.Sequential:
    extra = [nn.Conv2d(4, 4, 1)] if more else []
    return nn.Sequential(
        nn.Conv2d(cin, 4, 3), *extra, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    )


def test_a_layer_of_other_sizes_gives_its_bias_to_no_neighbour() -> None:
    def net(first: nn.Sequential) -> nn.Module:
        rest = [nn.ModuleDict({"conv": double(4)}) for _ in range(3)]
        return filled(nn.ModuleDict({"first": first, "rest": nn.Sequential(*rest), "out": nn.Linear(4, 3)}))

    file = net(double(3)).state_dict()
    model = net(double(1, more=True))
    assert is_loaded_or_doubt(
        model, file,
        {name: name for name in file} | {f"first.{at}.{end}": f"first.{at - 1}.{end}"
         for at in (2, 4, 5) for end in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")},
    )  # fmt: skip
