"""torchgraft beside simple matchers, on pairs of real implementations: `python bench/matchers.py [--json FILE] [PAIR ...]`.

Every pair is a source and a target whose right answer is known by construction: names are mapped by a table of a few lines,
or the target is the source with a layer inserted, removed or replaced. Weights are random and distinct, so that a wrong
place can't hide behind an equal value. A cell says how many of the tensors that have a right value got it, and how many
were changed to something else (`wrong`). Counters and tensors of one element are left out.

The matchers: `name+shape` (strict=False that skips other shapes), `suffix` (longest common dotted suffix, as detectron2),
`order` (zip in file order where shapes agree), `sorted` (the same, by name), `hungarian` (assignment by likeness of names
within equal shapes), and weightbridge (unmatched tensors ignored) where it is installed. `torchgraft` takes its best
reading; `certain` fills only what it is certain of.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import re
import time
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

State = dict[str, Tensor]
Expected = dict[str, Tensor]
Pair = Callable[[], tuple[nn.Module, nn.Module, Expected]]


def distinct(model: nn.Module) -> nn.Module:
    """Give every float tensor of a model values of its own."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor))
    return model


def renamed(source: nn.Module, target: nn.Module, rules: dict[str, str]) -> Expected:
    """Return target name -> value by regular expressions applied in turn to the source's names."""
    out = {}
    for key, value in source.state_dict().items():
        name = key
        for pattern, to in rules.items():
            name = re.sub(pattern, to, name)
        if name in target.state_dict() and target.state_dict()[name].shape == value.shape:
            out[name] = value
    return out


def resnet_head() -> tuple[nn.Module, nn.Module, Expected]:
    from torchvision.models import resnet18

    source, target = distinct(resnet18()), distinct(resnet18(num_classes=10))
    return source, target, renamed(source, target, {})


def resnet_prefix() -> tuple[nn.Module, nn.Module, Expected]:
    from torchvision.models import resnet18

    body = resnet18(num_classes=10)
    body.fc = nn.Identity()
    source, target = distinct(resnet18()), distinct(nn.ModuleDict({"backbone": body, "head": nn.Linear(512, 10)}))
    return source, target, renamed(source, target, {"^": "backbone."})


def inserted_layer() -> tuple[nn.Module, nn.Module, Expected]:
    from torchvision.models import vgg11_bn

    source, target = vgg11_bn(num_classes=10), vgg11_bn(num_classes=10)
    source.classifier = nn.Sequential(nn.Linear(512, 10))
    layers = list(target.features)
    target.features = nn.Sequential(*layers[:8], nn.Conv2d(128, 128, 1), nn.BatchNorm2d(128), nn.ReLU(), *layers[8:])
    target.classifier = nn.Sequential(nn.Linear(512, 10))

    def shifted(key: str) -> str:
        return re.sub(r"features\.(\d+)", lambda m: f"features.{int(m[1]) + 3 * (int(m[1]) >= 8)}", key)

    source, target = distinct(source), distinct(target)
    return source, target, {shifted(key): value for key, value in source.state_dict().items()}


def half_depth() -> tuple[nn.Module, nn.Module, Expected]:
    from torchvision.models import resnet18, resnet34

    source, target = distinct(resnet34()), distinct(resnet18())
    return source, target, renamed(source, target, {})


def vit(depth: int = 3, size: int = 32) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=size, patch_size=8, num_layers=depth, num_heads=2, hidden_dim=32, mlp_dim=128, num_classes=10
    )


def timm_vit() -> nn.Module:
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=10
    )


def vit_to_timm() -> tuple[nn.Module, nn.Module, Expected]:
    source, target = distinct(vit()), distinct(timm_vit())
    rules = {
        r"^class_token$": "cls_token", r"^conv_proj": "patch_embed.proj", r"^encoder\.pos_embedding$": "pos_embed",
        r"^encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.", r"ln_(\d)": r"norm\1", r"^encoder\.ln": "norm",
        r"self_attention\.in_proj_": "attn.qkv.", r"self_attention\.out_proj": "attn.proj", r"mlp\.0": "mlp.fc1",
        r"mlp\.3": "mlp.fc2", r"^heads\.head": "head",
    }  # fmt: skip
    return source, target, renamed(source, target, rules)


def larger_image() -> tuple[nn.Module, nn.Module, Expected]:
    """The position table has a right value only up to the way of resampling: its prefix row is looked at alone."""
    source, target = distinct(vit()), distinct(vit(size=64))
    return source, target, renamed(source, target, {})


def split_to_fused() -> tuple[nn.Module, nn.Module, Expected]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128, image_size=32, patch_size=8,
        num_labels=10,
    )  # fmt: skip
    source, target = distinct(ViTForImageClassification(config)), distinct(timm_vit())
    return source, target, _fused(source.state_dict())


def _fused(state: State) -> Expected:
    """Return timm's tensors from transformers', whatever of its two namings the installed version has."""
    out: Expected = {}
    parts: dict[str, dict[str, Tensor]] = {}
    rules = {
        r"^vit\.": "", r"embeddings\.cls_token": "cls_token", r"embeddings\.position_embeddings": "pos_embed",
        r"embeddings\.patch_embeddings\.projection": "patch_embed.proj", r"^(encoder\.)?layers?\.(\d+)\.": r"blocks.\2.",
        r"layernorm_before": "norm1", r"layernorm_after": "norm2", r"^layernorm": "norm", r"^classifier": "head",
        r"attention\.(output\.dense|o_proj)": "attn.proj", r"attention\.(attention\.)?": "attn.",
        r"intermediate\.dense": "mlp.fc1", r"(?<!attn\.)output\.dense": "mlp.fc2",
    }  # fmt: skip
    for key, value in state.items():
        name = key
        for pattern, to in rules.items():
            name = re.sub(pattern, to, name)
        found = re.fullmatch(r"(.*)\.(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)", name)
        if found:
            parts.setdefault(f"{found[1]}.qkv.{found[3]}", {})[found[2][0]] = value
        else:
            out[name] = value
    return out | {name: torch.cat([part[p] for p in "qkv"]) for name, part in parts.items()}


def in_order(source: nn.Module, target: nn.Module) -> Expected:
    """Return target name -> value where two libraries register the same layers in the same order.

    That they do was seen by equal outputs. Index tables that one side keeps as buffers are left out.
    """
    sides = [
        [(k, v) for k, v in model.state_dict().items() if "index" not in k and "mask" not in k]
        for model in (distinct(source), distinct(target))
    ]
    return {name: value for (_, value), (name, _) in zip(*sides, strict=True)}


def same_layers(name: str, timm_name: str) -> Pair:
    """Return a pair of one architecture in torchvision and in timm."""

    def pair() -> tuple[nn.Module, nn.Module, Expected]:
        import timm
        import torchvision

        source, target = getattr(torchvision.models, name)(), timm.create_model(timm_name)
        return source, target, in_order(source, target)

    return pair


def less_depth() -> tuple[nn.Module, nn.Module, Expected]:
    source, target = distinct(vit(depth=6)), distinct(vit(depth=4))
    return source, target, renamed(source, target, {})


class LinearGPT(nn.Module):
    """The layers of GPT-2 as nn.Linear, under nanoGPT's names."""

    def __init__(self, width: int = 32, depth: int = 3, words: int = 50, length: int = 16) -> None:
        super().__init__()

        def block() -> nn.ModuleDict:
            attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
            mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
            return nn.ModuleDict({"ln_1": nn.LayerNorm(width), "attn": attn, "ln_2": nn.LayerNorm(width), "mlp": mlp})

        parts: dict[str, nn.Module] = {"wte": nn.Embedding(words, width), "wpe": nn.Embedding(length, width)}
        parts |= {"h": nn.ModuleList(block() for _ in range(depth)), "ln_f": nn.LayerNorm(width)}
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(width, words, bias=False)
        self.lm_head.weight = parts["wte"].weight


def turned_matrices() -> tuple[nn.Module, nn.Module, Expected]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=32, n_head=2, n_layer=3, vocab_size=50, n_positions=16)
    source, target = distinct(GPT2LMHeadModel(config)), distinct(LinearGPT())
    turned = re.compile(r"\.c_(attn|proj|fc)\.weight$")
    return source, target, {k: v.T if turned.search(k) else v for k, v in source.state_dict().items()}


PAIRS: dict[str, Pair] = {
    "torchvision ResNet-50 -> timm": same_layers("resnet50", "resnet50"),
    "torchvision ConvNeXt-T -> timm": same_layers("convnext_tiny", "convnext_tiny"),
    "torchvision MobileNetV3-L -> timm": same_layers("mobilenet_v3_large", "mobilenetv3_large_100"),
    "torchvision EfficientNet-B0 -> timm": same_layers("efficientnet_b0", "efficientnet_b0"),
    "less depth": less_depth,
    "transformers GPT-2 -> Linear": turned_matrices,
    "another head": resnet_head,
    "prefix and head": resnet_prefix,
    "layer inserted, indices shifted": inserted_layer,
    "half the depth": half_depth,
    "torchvision ViT -> timm": vit_to_timm,
    "transformers ViT -> timm (q, k, v -> qkv)": split_to_fused,
    "larger image": larger_image,
}


def fill(target: nn.Module, source: State, mapping: dict[str, str]) -> None:
    """Copy source[key] to each target name."""
    state = target.state_dict()
    with torch.no_grad():
        for name, key in mapping.items():
            state[name].copy_(source[key].reshape(state[name].shape))


def name_and_shape(source: State, target: nn.Module) -> None:
    state = target.state_dict()
    fill(target, source, {n: n for n in state if n in source and source[n].shape == state[n].shape})


def suffix(source: State, target: nn.Module) -> None:
    mapping = {}
    for name, value in target.state_dict().items():
        hits = [k for k in source if (name == k or name.endswith("." + k)) and source[k].shape == value.shape]
        if hits:
            mapping[name] = max(hits, key=len)
    fill(target, source, mapping)


def zipped(source: State, names: list[str], target: nn.Module, keys: list[str]) -> None:
    state = target.state_dict()
    fill(target, source, {n: k for n, k in zip(names, keys, strict=False) if state[n].shape == source[k].shape})


def order(source: State, target: nn.Module) -> None:
    zipped(source, list(target.state_dict()), target, list(source))


def by_name(source: State, target: nn.Module) -> None:
    zipped(source, sorted(target.state_dict()), target, sorted(source))


def hungarian(source: State, target: nn.Module) -> None:
    mapping = {}
    state = target.state_dict()
    for shape in {tuple(v.shape) for v in state.values()}:
        names = [n for n, v in state.items() if tuple(v.shape) == shape]
        keys = [k for k, v in source.items() if tuple(v.shape) == shape]
        if keys:
            cost = np.array([[-SequenceMatcher(None, n, k).ratio() for k in keys] for n in names])
            mapping |= {names[i]: keys[j] for i, j in zip(*linear_sum_assignment(cost), strict=True)}
    fill(target, source, mapping)


def weightbridge(source: State, target: nn.Module) -> None:
    tree = importlib.import_module("weightbridge")
    state = target.state_dict()
    inputs, outputs = ({k: v.numpy() for k, v in side.items() if v.ndim} for side in (source, state))
    with contextlib.redirect_stdout(io.StringIO()):
        found = tree.adapt(
            inputs, outputs, in_format="pytorch", out_format="pytorch", in_separator=".", out_separator=".",
            ignore_unmatched_inputs=True, ignore_unmatched_outputs=True,
        )  # fmt: skip
    target.load_state_dict({k: torch.as_tensor(v) for k, v in found.items()}, strict=False)


def ours(source: State, target: nn.Module) -> None:
    import torchgraft as tg

    tg.load(target, source, on_doubt="take")


def certain(source: State, target: nn.Module) -> None:
    import torchgraft as tg

    tg.load(target, source, on_doubt="skip", accept="certain")


MATCHERS = {
    "name+shape": name_and_shape, "suffix": suffix, "order": order, "sorted": by_name, "hungarian": hungarian,
    "torchgraft": ours, "certain": certain,
}  # fmt: skip
if importlib.util.find_spec("weightbridge") is not None:
    MATCHERS = {"weightbridge": weightbridge, **MATCHERS}


def score(pair: str, matcher: str) -> dict[str, object]:
    """Return how many tensors are right and wrong, and how many have a right value."""
    torch.manual_seed(0)
    source, target, expected = PAIRS[pair]()
    before = copy.deepcopy(target.state_dict())
    start = time.perf_counter()
    try:
        MATCHERS[matcher](source.state_dict(), target)
        failed = ""
    except Exception as error:  # noqa: BLE001  # a matcher that gives up is a result
        failed = type(error).__name__
    seconds = time.perf_counter() - start
    right = wrong = needed = 0
    for name, now in target.state_dict().items():
        if now.numel() < 2:
            continue
        goal = expected.get(name)
        needed += goal is not None
        resampled = goal is None and name == "encoder.pos_embedding"
        if goal is not None and torch.equal(now, goal.reshape(now.shape)):
            right += 1
        elif not resampled and not torch.equal(now, before[name]):
            wrong += 1
    return {
        "pair": pair,
        "matcher": matcher,
        "right": right,
        "needed": needed,
        "wrong": wrong,
        "seconds": seconds,
        "error": failed,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="torchgraft beside simple matchers.")
    parser.add_argument("pairs", nargs="*", help="parts of names of pairs")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    print(f"{'right / needed (wrong)':42}" + "".join(f"{name:>16}" for name in MATCHERS))
    for pair in PAIRS:
        if asked.pairs and not any(part in pair for part in asked.pairs):
            continue
        cells = [score(pair, matcher) for matcher in MATCHERS]
        rows += cells
        said = [f"{c['right']}/{c['needed']}" + (f" ({c['wrong']})" if c["wrong"] else "") for c in cells]
        print(
            f"{pair:42}" + "".join(f"{c['error'] or text:>16}" for c, text in zip(cells, said, strict=True)), flush=True
        )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
