"""Guesses what two models can be run on, by their layers and by what their forward methods take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from torchgraft.core.objects import entry_or_attribute
from torchgraft.core.places import modules
from torchgraft.verifying.tracing.capture import can_run

# Pixels on a side: small ones first, then the usual ones of published models, and what windows and patches divide.
SIZES = (32, 64, 224, 28, 16, 48, 96, 128, 56, 40, 24, 112)
LENGTHS = (64, 400, 4000)  # of sound
KINDS = (
    ((nn.Conv2d, nn.ConvTranspose2d), "image"),
    (nn.Embedding, "words"),
    ((nn.Conv1d, nn.ConvTranspose1d), "sound"),
    ((nn.Linear, nn.LSTM, nn.GRU, nn.LayerNorm), "rows"),
)
SEED = 7


def guess_inputs(source: nn.Module, target: nn.Module, most: int = 1) -> Iterator[tuple[Any, Any]]:
    """Yield up to `most` inputs of source and target with the same main tensor, on which both run.

    Both models are run for that, and are afterwards as they were. The random state of the process is left alone.
    """
    return islice(_runnable_pairs(source, target), most)


def input_words(given: Any) -> str:
    """Return an input in words: the shapes of its tensors."""
    if isinstance(given, torch.Tensor):
        return f"{list(given.shape)}"
    if isinstance(given, dict):
        return ", ".join(f"{name} {input_words(value)}" for name, value in given.items())
    if isinstance(given, (tuple, list)):
        return ", ".join(map(input_words, given))
    return "a callable" if callable(given) else repr(given)


def _runnable_pairs(source: nn.Module, target: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield for each form in which the source takes a main input the first form in which the target does."""
    tried: set[tuple[object, ...]] = set()
    for tensor in _main_inputs(source, target):
        if (tensor.shape, tensor.dtype) in tried:
            continue
        tried.add((tensor.shape, tensor.dtype))
        for source_form in filter(partial(can_run, source), _forms(source, tensor)):
            if can_run(target, source_form):
                yield source_form, source_form
                continue
            target_form = next(filter(partial(can_run, target), _forms(target, tensor)), None)
            if target_form is None:
                break
            yield source_form, target_form


def _forms(model: nn.Module, x: torch.Tensor) -> Iterator[Any]:
    """Yield ways in which a model may take its main input."""
    arguments = forward_parameters(model)
    names, needed = list(arguments), sum(arguments.values())
    if needed <= 1:
        yield (x,)
    if x.dim() == 3:
        other = torch.cat([x, x], 1) if needed > 1 else x
        yield (x, torch.full((len(x),), x.shape[1]))
        tokens = torch.arange(1, 5).repeat(len(x), 1)  # sound in, words out
        yield (x, tokens)
        if "decoder_input_ids" in names:
            yield {names[0]: x, "decoder_input_ids": tokens}
        yield (x, other)
        yield (x, x, x)
        yield ((x, x),)
    if x.dim() == 4:
        times, labels = torch.arange(3, 3 + len(x)), torch.arange(1, 1 + len(x))
        yield (x, times)
        yield (x, times, labels)
        yield ((x, times, labels),)
    if x.dtype is torch.long:
        yield {"input_ids": x, "decoder_input_ids": x}
        yield (x, x)


def forward_parameters(module: nn.Module) -> dict[str, bool]:
    """Return the names of what a module's forward pass takes, and whether each must be given by position."""
    forward: Any = module.forward
    try:
        known = inspect.signature(forward).parameters
    except ValueError:  # a module that torch.jit.load() returned: its code is in no Python
        return {one.name: not one.has_default_value() for one in forward.schema.arguments[1:]}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name: p.default is p.empty and p.kind in positional for name, p in known.items()}


def _main_inputs(*models: nn.Module) -> Iterator[torch.Tensor]:
    """Yield main inputs, by layers that say what they take, the kinds of layers in the order of the models."""
    draw = torch.Generator().manual_seed(SEED)
    every = [module for model in models for _, module in modules(model)]
    for kind in dict.fromkeys(kind for kind in map(_kind, every) if kind):
        first = next(m for m in every if _kind(m) == kind)
        yield from _tensors_of_kind(kind, first, every, draw)


def _kind(module: nn.Module) -> str:
    return next((kind for types, kind in KINDS if isinstance(module, types)), "")


def _tensors_of_kind(kind: str, module: Any, every: list[nn.Module], draw: torch.Generator) -> Iterator[torch.Tensor]:
    if kind == "words":
        rows = min([m.num_embeddings for m in every if isinstance(m, nn.Embedding) and m.num_embeddings > 8], default=8)
        end = min(rows, module.num_embeddings)
        first = 3 if end > 3 else 0  # the first rows are often padding and other marks
        for length in (8, 16, 4):
            yield torch.randint(first, end, (2, length), generator=draw)
        return
    shapes = {"image": _images, "sound": _sounds, "rows": _rows}[kind]
    yield from (torch.randn(shape, generator=draw) for shape in shapes(module, every))


def _images(module: Any, every: list[nn.Module]) -> Iterator[tuple[int, ...]]:
    sizes = [entry_or_attribute(m, "img_size") or entry_or_attribute(m, "image_size") for m in every]
    stated = [s if isinstance(s, int) else s[0] for s in sizes if isinstance(s, (int, tuple))]
    for channels in dict.fromkeys((module.in_channels, 3, 1)):  # the layer registered first need not run first
        yield from ((2, channels, size, size) for size in (*stated, *SIZES))


def _sounds(module: Any, every: list[nn.Module]) -> Iterator[tuple[int, ...]]:
    for length in (*LENGTHS, *_lengths(every)):
        yield 2, module.in_channels, length
        if module.in_channels == 1:
            yield 2, length


def _rows(module: Any, _: list[nn.Module]) -> Iterator[tuple[int, ...]]:
    size = _width(module)
    yield from ((2, size), (2, 12, size))
    yield from ((2, 3, pixels, pixels) for pixels in SIZES)


def _width(module: Any) -> int:
    """Return how wide the rows are that a layer takes."""
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    return int(module.in_features if isinstance(module, nn.Linear) else module.input_size)


def _lengths(every: list[nn.Module]) -> list[int]:
    """Return lengths of sound that tables of positions were made for, where two steps make one position."""
    tables = [
        tensor
        for module in every
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if tensor.dim() == 2 and ("pos" in name or isinstance(module, nn.Embedding))
    ]
    return sorted({2 * len(table) for table in tables if len(table) <= 4096})
