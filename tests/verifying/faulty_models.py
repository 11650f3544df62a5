"""Six architectures, each as a source and a target that is loaded right, small and with values that are all distinct."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F


def randomised(model, seed=1):
    """Give every tensor values that are all distinct, at a scale under which no layer is dead."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            last = name.rpartition(".")[2]
            if p.dim() > 1:
                p.copy_(torch.randn_like(p) * (1.4 / max(1, p[0].numel()) ** 0.5))
            else:
                p.copy_(torch.rand_like(p) + 0.5 if "weight" in last else 0.2 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.2 * torch.randn_like(b))
            elif name.endswith("running_var"):
                b.copy_(0.1 + torch.rand_like(b))
    return model.eval()


def resnet():
    """Return torchvision's as the source, timm's as the target."""
    from timm.models.resnet import BasicBlock, ResNet
    from torchvision.models.resnet import BasicBlock as Block
    from torchvision.models.resnet import ResNet as Theirs

    source = randomised(Theirs(Block, [1, 1, 1, 1], num_classes=7))
    return source, ResNet(BasicBlock, (1, 1, 1, 1), num_classes=7).eval(), images(48)


def vit():
    """Return torchvision's as the source, timm's as the target."""
    from timm.models.vision_transformer import VisionTransformer as Ours
    from torchvision.models.vision_transformer import VisionTransformer

    source = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=7
    )
    target = Ours(img_size=32, patch_size=8, depth=2, num_heads=4, embed_dim=32, mlp_ratio=2, num_classes=7)
    return randomised(source), target.eval(), images(32)


def efficientnet():
    """Return timm's in both places."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    def build():
        blocks = decode_arch_def([["ds_r1_k3_s1_e1_c8_se0.25"], ["ir_r2_k3_s2_e3_c16_se0.25"], ["ir_r1_k5_s2_e3_c24"]])
        return EfficientNet(blocks, num_classes=7, num_features=32, stem_size=8, act_layer=nn.SiLU)

    return randomised(build()), build().eval(), images(32)


def llama():
    """Return transformers' in both places."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = partial(
        LlamaConfig, vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, attn_implementation="eager",
    )  # fmt: skip
    return randomised(LlamaForCausalLM(config())), LlamaForCausalLM(config()).eval(), words


def bert():
    """Return transformers' in both places."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, attn_implementation="sdpa",
    )  # fmt: skip
    return randomised(BertModel(config)), BertModel(config).eval(), words


class Speech(nn.Module):
    """Convolutions, group norm, an LSTM and attention by hand."""

    def __init__(self, heads=4, slope=0.1):
        super().__init__()
        self.conv1 = nn.Conv1d(8, 32, 5, stride=2, padding=2)
        self.norm1 = nn.GroupNorm(4, 32)
        self.act = nn.LeakyReLU(slope)
        self.conv2 = nn.Conv1d(32, 32, 3, padding=1)
        self.rnn = nn.LSTM(32, 16, batch_first=True, bidirectional=True)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.out = nn.Linear(32, 32)
        self.norm2 = nn.LayerNorm(32)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32, 5)
        self.heads = heads

    def attend(self, x):
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def forward(self, x):
        x = self.act(self.norm1(self.conv1(x)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = self.rnn(x)[0]
        x = self.drop(x + self.attend(self.norm2(x)))
        return self.head(x.mean(1))


def speech():
    """Return a model of our own in both places."""
    return randomised(Speech()), Speech().eval(), lambda: torch.randn(2, 8, 24)


def images(size):
    return lambda: torch.randn(2, 3, size, size)


def words():
    return {"input_ids": torch.randint(0, 50, (2, 9))}


ARCHITECTURES = {f.__name__: f for f in (resnet, vit, efficientnet, llama, bert, speech)}
