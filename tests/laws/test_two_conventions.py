"""One network as two libraries would name and pack it, its file sorted by name: what is placed without doubt is right."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg

FILE, MODEL = (
    "amber birch cedar dune elm fern grove heath iris jade kelp lotus",
    "alpha bravo carol delta echo fox golf hotel india jazz kilo lima",
)


class Layer(NamedTuple):
    """A layer or a norm of the network: what it is, and where it stands."""

    module: nn.Module
    is_norm: bool
    part: str  # "stem", "main", "side", "last" or "head"
    stage: int = 0
    block: int = 0
    at: int = 0


def network(random: Random) -> list[Layer]:
    """Return the layers of stages of blocks, with norms behind or in front of layers, and shortcuts where widths change."""
    front, is_flat, bias = random.random() < 0.35, random.random() < 0.25, random.random() < 0.4
    norm = random.choice((nn.BatchNorm2d, nn.LayerNorm))
    depth, stages, layers = (random.choice(one) for one in ((2, 3), (1, 2, 3), (2, 3)))

    def layer(into: int, out: int, kernel: int) -> nn.Module:
        return nn.Linear(into, out, bias=bias) if is_flat else nn.Conv2d(into, out, kernel, bias=bias)

    width = random.choice((8, 12))
    found = [Layer(layer(3, width, 3), is_norm=False, part="stem")]
    found += [] if front else [Layer(norm(width), is_norm=True, part="stem")]
    for stage in range(stages):
        out = random.choice((8, 12, 16, 24))
        inner = random.choice((out, out, 8, 20))
        for block in range(depth):
            sizes = [width, *[inner] * (layers - 1), out]
            for at, (a, b) in enumerate(pairwise(sizes)):
                place = {"part": "main", "stage": stage, "block": block, "at": at}
                both = [
                    Layer(layer(a, b, 3 if at == layers // 2 else 1), is_norm=False, **place),
                    Layer(norm(a if front else b), is_norm=True, **place),
                ]
                found += both[::-1] if front else both
            if width != out:
                side = {"part": "side", "stage": stage, "block": block}
                found.append(Layer(layer(width, out, 1), is_norm=False, **side))
                found += [] if front else [Layer(norm(out), is_norm=True, **side)]
            width = out
    found += [Layer(norm(width), is_norm=True, part="last")] if front else []
    return [*found, Layer(nn.Linear(width, 5), is_norm=False, part="head")]


def names(layers: list[Layer], words: list[str], random: Random) -> list[str]:
    """Return what a library may call the layers."""
    kind = random.choice((("conv", "bn"), ("conv", "norm"), ("convolution", "normalization"), ("linear", "ln")))
    style, first = random.randrange(7), random.randrange(2)
    side = random.choice(("downsample.{n}", "shortcut.{kind}", "proj_{kind}"))
    blocks = random.choice(("layer{stage}.{block}", "stages.{stage}.blocks.{block}", "{word}.{block}"))
    stem, last = random.choice(("stem.{kind}", "{kind}1", "stem.{n}")), random.choice(("norm", "final_norm", "tail.bn"))
    head = random.choice(("head", "fc", "classifier", "output"))
    front = any(layer.part == "last" for layer in layers)

    def name(layer: Layer) -> str:
        called, n = kind[layer.is_norm], int(layer.is_norm)
        if layer.part in {"last", "head"}:
            return last if layer.part == "last" else head
        if layer.part == "stem":
            return stem.format(kind=called, n=n)
        block = blocks.format(stage=layer.stage, block=layer.block, word=words[-1 - layer.stage])
        if layer.part == "side":
            return f"{block}.{side.format(kind=called, n=n)}"
        turn, number = layer.is_norm != front, layer.at + first
        inside = (
            f"{called}{number}", f"{kind[0]}{number}.{called}", f"body.{3 * layer.at + turn}", f"body.{number}.{int(turn)}",
            words[2 * layer.at + layer.is_norm], f"{called}s.{layer.at}", f"{words[layer.at]}_{called}",
        )  # fmt: skip
        return f"{block}.{inside[style]}"

    return [name(layer) for layer in layers]


def built(layers: list[Layer], called: list[str]) -> nn.Module:
    root = nn.Module()
    for layer, name in zip(layers, called, strict=True):
        module = root
        *around, last = name.split(".")
        for part in around:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.add_module(last, layer.module)
    return root


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_what_is_placed_without_doubt_is_right(seed):
    random = Random(seed)  # noqa: S311  # no secrets
    layers = network(random)
    saved, own = (names(layers, random.sample(words.split(), 12), random) for words in (FILE, MODEL))
    if any(len({*called}) < len(called) for called in (saved, own)):
        return
    file, model, truth = built(layers, saved), built(layers, own), dict(zip(own, saved, strict=True))
    plan = tg.plan(model, dict(sorted(file.state_dict().items())), on_doubt="skip")
    placed = {step.slot.name: step.feeds[0].key for step in plan.steps if step.feeds}
    assert placed == {slot: ".".join([truth[slot.rpartition(".")[0]], slot.rpartition(".")[2]]) for slot in placed}
