"""Thirteen transfers between real implementations, as a user asks for them: every tensor right, outputs equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTForImageClassification

import torchgraft as tg

if TYPE_CHECKING:
    from collections.abc import Callable


def distinct(model: nn.Module) -> nn.Module:
    """Give all floating tensors values of their own, of a scale at which no layer is dead; statistics stay positive."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.dim() > 1:
                value.normal_(std=(2 / max(value[0].numel(), 2)) ** 0.5)
            elif value.is_floating_point():
                value.normal_(mean=1.0 if name.endswith("weight") else 0.0, std=0.1)
    return model.eval()


def image(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def tv_vit(*, depth: int = 3, size: int = 64, classes: int = 10) -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=size, patch_size=16, num_layers=depth, num_heads=2, hidden_dim=64, mlp_dim=256, num_classes=classes
    )


def timm_vit(**how: object) -> nn.Module:
    usual = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 2, "num_classes": 10}
    return timm.create_model("vit_tiny_patch16_224", **(usual | how))


def hf_vit() -> nn.Module:
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=256, image_size=64, num_labels=10
    )
    return ViTForImageClassification(config)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.c_attn(x).chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class LinearGPT(nn.Module):
    """GPT-2 with nn.Linear, under nanoGPT's names."""

    def __init__(self, *, width: int = 32, heads: int = 2, depth: int = 3, words: int = 50, length: int = 16) -> None:
        super().__init__()
        parts = {"wte": nn.Embedding(words, width), "wpe": nn.Embedding(length, width)}
        parts["h"] = nn.ModuleList(Block(width, heads) for _ in range(depth))
        parts["ln_f"] = nn.LayerNorm(width)
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(width, words, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"].weight[: ids.shape[1]]
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def hf_gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=2, n_layer=3, vocab_size=50, n_positions=16))


def logits(out: object) -> torch.Tensor:
    return getattr(out, "logits", out)  # type: ignore[return-value]  # models of transformers return named fields


SAME_OUTPUT: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], torch.Tensor]] = {
    "torchvision ResNet-50 -> timm": (torchvision.models.resnet50, lambda: timm.create_model("resnet50"), image(64)),
    "torchvision ViT -> timm": (tv_vit, timm_vit, image(64)),
    "transformers ViT -> timm": (hf_vit, timm_vit, image(64)),
    "torchvision ConvNeXt -> timm": (
        torchvision.models.convnext_tiny, lambda: timm.create_model("convnext_tiny"), image(64),
    ),
    "torchvision EfficientNet -> timm": (
        torchvision.models.efficientnet_b0, lambda: timm.create_model("efficientnet_b0"), image(64),
    ),
    "torchvision Swin -> timm": (
        torchvision.models.swin_t, lambda: timm.create_model("swin_tiny_patch4_window7_224"), image(224),
    ),
    "transformers GPT-2 -> Linear": (hf_gpt2, LinearGPT, torch.arange(20).reshape(2, 10)),
}  # fmt: skip


@pytest.mark.parametrize("pair", SAME_OUTPUT)
def test_outputs_are_equal(pair):
    make_source, make_target, x = SAME_OUTPUT[pair]
    source, target = distinct(make_source()), make_target().eval()
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    with torch.no_grad():
        want, got = logits(source(x)), logits(target(x))
    assert float((want - got).abs().max() / want.abs().max()) < 1e-5
    assert not [s.slot.name for s in plan.fresh if not s.quiet]


def test_the_same_layers_with_another_eps_are_equal_once_it_is_stated():
    source = distinct(torchvision.models.mobilenet_v3_large())
    target = timm.create_model("mobilenetv3_large_100", bn_eps=1e-3).eval()
    tg.load(target, source.state_dict(), on_doubt="take")
    x = image(64)
    with torch.no_grad():
        want, got = source(x), target(x)
    assert float((want - got).abs().max() / want.abs().max()) < 1e-5


def filled_right(plan: object, target: nn.Module, right: dict[str, torch.Tensor]) -> None:
    """Check that all tensors of `right` are there, and that nothing else was filled."""
    state = target.state_dict()
    assert all(torch.equal(state[name], value) for name, value in right.items())
    filled = {name for s in plan.steps if s.feeds for name in s.slot.names}  # type: ignore[attr-defined]
    assert filled == set(right)


def test_another_head():
    source, target = distinct(torchvision.models.resnet50()), torchvision.models.resnet50(num_classes=10)
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    filled_right(plan, target, {k: v for k, v in source.state_dict().items() if not k.startswith("fc.")})


def test_a_backbone_under_a_prefix_with_a_new_head():
    source, body = distinct(torchvision.models.resnet50()), torchvision.models.resnet50()
    body.fc = nn.Identity()
    target = nn.ModuleDict({"backbone": body, "head": nn.Linear(2048, 10)})
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    state = source.state_dict()
    filled_right(plan, target, {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")})


def test_a_layer_inserted_so_that_all_indices_shift():
    def layers(*sizes: tuple[int, int, int]) -> list[nn.Module]:
        return [m for a, b, k in sizes for m in (nn.Conv2d(a, b, k, padding=k // 2), nn.BatchNorm2d(b), nn.ReLU())]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    first, last = [(3, 16, 3), (16, 32, 3)], [(32, 32, 3), (32, 64, 3)]
    source = distinct(nn.Sequential(*layers(*first, *last), *head, nn.Linear(64, 10)))
    target = nn.Sequential(*layers(*first, (32, 32, 1), *last), *head, nn.Linear(64, 10))
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    right = {}
    for key, value in source.state_dict().items():
        number, _, name = key.partition(".")
        right[f"{int(number) + 3 * (int(number) >= 6)}.{name}"] = value
    filled_right(plan, target, right)


def test_less_depth():
    source, target = distinct(timm_vit(depth=6)), timm_vit(depth=4)
    plan = tg.load(target, source.state_dict(), on_doubt="take").plan
    filled_right(plan, target, {k: v for k, v in source.state_dict().items() if k in target.state_dict()})


def test_a_larger_image():
    source, target = distinct(timm_vit()), timm_vit(img_size=96)
    tg.load(target, source.state_dict(), on_doubt="take")
    theirs = timm_vit(img_size=96)
    right = timm.models.vision_transformer.checkpoint_filter_fn(source.state_dict(), theirs)
    for name, value in target.state_dict().items():
        assert torch.allclose(value, right[name], atol=1e-6), name
