"""Kernels with more axes than a matrix, seen as the matrices that they are: with an axis for heads, or of one position.

Flax's DenseGeneral and Keras' EinsumDense keep the kernel of a query as [in, heads, size of a head], with a bias
[heads, size of a head], and that of the way back as [heads, size of a head, out]; inputs come first in both:
https://flax-linen.readthedocs.io/en/latest/_modules/flax/linen/attention.html
https://github.com/keras-team/keras/blob/master/keras/src/layers/attention/multi_head_attention.py
GPT-2's own code keeps the layers of its blocks as [1, in, out]: https://github.com/openai/gpt-2/blob/master/src/model.py
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod

from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.matching.names.words import canonical

KERNEL = "kernel"
BIASES = {KERNEL: "bias", "w": "b"}
PROJECTIONS = frozenset({"q", "k", "v"})


def as_matrices(specs: Mapping[str, TensorSpec]) -> dict[str, Shape]:
    """Return the shapes that such kernels, and their biases, have as matrices [in, out] and as vectors."""
    return _of_one_position(specs) | with_heads_joined(specs)


def _of_one_position(specs: Mapping[str, TensorSpec]) -> dict[str, Shape]:
    """Return the shapes of kernels [1, in, out] without their first axis, where a bias shows that outputs come last."""
    found: dict[str, Shape] = {}
    for key, spec in specs.items():
        if len(spec.shape) != 3 or spec.shape[0] != 1:
            continue
        owner, _, role = key.rpartition(".")
        if role in BIASES:
            bias = specs.get(f"{owner}.{BIASES[role]}")
            if bias is not None and bias.shape == spec.shape[2:]:
                found[key] = spec.shape[1:]
    return found


def with_heads_joined(specs: Mapping[str, TensorSpec]) -> dict[str, Shape]:
    """Return the shapes that kernels and biases with an axis for the heads have as matrices [in, out] and as vectors.

    A kernel is one where its bias has several axes, the kernel's last; or, without biases, where query, key and value of
    one module agree in theirs. Beside those, one that begins with the same axes leads back.
    """
    kernels: dict[str, dict[str, TensorSpec]] = defaultdict(dict)
    for key, spec in specs.items():
        if len(spec.shape) > 2 and key.endswith(f".{KERNEL}"):
            owner = key.rpartition(".")[0]
            kernels[owner.rpartition(".")[0]][owner] = spec
    found: dict[str, Shape] = {}
    for layers in kernels.values():
        wide = _by_bias(layers, specs) or _by_name(layers)
        heads = {layers[owner].shape[1:] for owner in wide}
        for owner, spec in layers.items():
            shape, bias = spec.shape, specs.get(f"{owner}.bias")
            if owner in wide:
                found[f"{owner}.{KERNEL}"] = (shape[0], prod(shape[1:]))
                if bias is not None and bias.shape == shape[1:]:
                    found[f"{owner}.bias"] = (prod(shape[1:]),)
            elif shape[:-1] in heads and (bias is None or bias.shape == shape[-1:]):
                found[f"{owner}.{KERNEL}"] = (prod(shape[:-1]), shape[-1])
    return found


def _by_bias(layers: Mapping[str, TensorSpec], specs: Mapping[str, TensorSpec]) -> set[str]:
    """Return the layers whose bias has the axes of their kernel but the first."""
    biases = {owner: specs[f"{owner}.bias"] for owner in layers if f"{owner}.bias" in specs}
    return {owner for owner, bias in biases.items() if bias.shape == layers[owner].shape[1:]}


def _by_name(layers: Mapping[str, TensorSpec]) -> set[str]:
    """Return query, key and value where their heads are alike and something leads back from the heads."""
    said = {owner: canonical(owner.rpartition(".")[2]) for owner in layers}
    named = {owner: words[0] for owner, words in said.items() if len(words) == 1 and words[0] in PROJECTIONS}
    heads = {layers[owner].shape[1:] for owner in named}
    back = {spec.shape[:-1] for owner, spec in layers.items() if owner not in named}
    return set(named) if set(named.values()) == PROJECTIONS and len(heads) == 1 and heads <= back else set()
