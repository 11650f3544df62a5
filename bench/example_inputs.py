"""Guesses what two models can be run on, where a measure doesn't say: images, tokens, sound or rows of features."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (32, 64, 224, 28, 16, 48, 96, 128, 56, 40, 24, 112)
KINDS = (
    (nn.Conv2d, "image"),
    (nn.Embedding, "words"),
    (nn.Conv1d, "sound"),
    ((nn.Linear, nn.LSTM, nn.GRU), "rows"),
)


def shared_inputs(source: nn.Module, target: nn.Module) -> tuple[Any, Any] | None:
    """Return inputs of source and target with the same main tensor, the first on which both run; None if none does."""
    tried = set()
    for guess in guesses(source, target):
        mark = (tuple(guess.shape), guess.dtype)
        if mark in tried:
            continue
        tried.add(mark)
        theirs = next((form for form in forms(source, guess) if runs(source, form)), None)
        mine = next((form for form in forms(target, guess) if runs(target, form)), None) if theirs is not None else None
        if theirs is not None and mine is not None:
            return theirs, mine
    return None


def forms(model: nn.Module, x: torch.Tensor) -> Iterator[Any]:
    """Yield ways in which a model may take its main input."""
    yield (x,)
    if x.dim() == 3:
        yield (x, torch.full((len(x),), x.shape[1]))
        tokens = torch.arange(1, 5).repeat(len(x), 1)  # sound in, words out
        yield (x, tokens)
        names = list(inspect.signature(model.forward).parameters)
        if names and "decoder_input_ids" in names:
            yield {names[0]: x, "decoder_input_ids": tokens}
    if x.dim() == 4:
        times, labels = torch.arange(3, 3 + len(x)), torch.arange(1, 1 + len(x))
        yield (x, times)
        yield (x, times, labels)
        yield ((x, times, labels),)
    if x.dtype is torch.long:
        yield {"input_ids": x, "decoder_input_ids": x}
        yield (x, x)


def runs(model: nn.Module, given: Any) -> bool:
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            model(**given) if isinstance(given, dict) else model(*given)
    except Exception:  # noqa: BLE001  # a guess that doesn't fit
        return False
    finally:
        model.train(training)
    return True


def guesses(*models: nn.Module) -> Iterator[torch.Tensor]:
    """Yield main inputs, by layers that say what they take: those of the first kind that is there come first."""
    torch.manual_seed(7)
    every = [module for model in models for module in model.modules()]
    for kind in sorted({_kind(m) for m in every} - {""}, key=[_kind(m) for m in every].index):
        first = next(m for m in every if _kind(m) == kind)
        yield from _of_kind(kind, first, every)


def _kind(module: nn.Module) -> str:
    return next((kind for types, kind in KINDS if isinstance(module, types)), "")


def _of_kind(kind: str, module: Any, every: list[nn.Module]) -> Iterator[torch.Tensor]:
    if kind == "image":
        sizes = [getattr(m, "img_size", None) or getattr(m, "image_size", None) for m in every]
        stated = [s if isinstance(s, int) else s[0] for s in sizes if isinstance(s, (int, tuple))]
        for channels in dict.fromkeys((module.in_channels, 3, 1)):  # the layer registered first need not run first
            for size in (*stated, *SIZES):
                yield torch.randn(2, channels, size, size)
    elif kind == "words":
        sizes = [m.num_embeddings for m in every if isinstance(m, nn.Embedding)]
        rows = min([size for size in sizes if size > 8], default=8)
        for length in (8, 16, 4):
            yield torch.randint(3, max(4, min(rows, module.num_embeddings)), (2, length))
    elif kind == "sound":
        for length in (64, 400, 4000, *_lengths(every)):
            yield torch.randn(2, module.in_channels, length)
            if module.in_channels == 1:
                yield torch.randn(2, length)
    else:
        size = getattr(module, "in_features", None) or module.input_size
        yield torch.randn(2, size)
        yield torch.randn(2, 12, size)
        for pixels in SIZES:
            yield torch.randn(2, 3, pixels, pixels)


def _lengths(every: list[nn.Module]) -> list[int]:
    """Return lengths of sound that tables of positions were made for, where two steps make one position."""
    tables = [
        tensor
        for module in every
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if tensor.dim() == 2 and ("pos" in name or isinstance(module, nn.Embedding))
    ]
    return sorted({2 * len(table) for table in tables if len(table) <= 4096})
