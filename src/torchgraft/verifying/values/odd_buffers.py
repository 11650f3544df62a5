"""Buffers that are worked out from something else, and whose values say that it was something else than in the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchgraft.core.derived import FREQUENCIES
from torchgraft.core.listing import listed
from torchgraft.core.plan import Objection

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from torchgraft.core.plan import Plan
    from torchgraft.core.specs import Source

# Vectors of power iteration (torch's spectral norm, both ways of writing it): of length 1 by construction.
POWER = ("weight_u", "weight_v", "_u", "_v")
# Half-precision files round frequencies and lengths by less than this.
NEAR = 0.01


def odd_buffers(made: Plan, source: Source, model: object) -> tuple[Objection, ...]:
    """Return objections to power-iteration vectors that were averaged, and rotary frequencies of another base."""
    return (*_averaged(made, source), *_other_frequencies(made, source, model))


def _averaged(made: Plan, source: Source) -> Iterator[Objection]:
    """An average of unit vectors is shorter than 1, and sigma = u W v computed with it is too small."""
    keys = {f.key: f.network for step in made.steps for f in step.feeds if f.key.rpartition(".")[2] in POWER}
    odd = [key for key, network in keys.items() if _length_is_odd(source.read(network, key))]
    if odd:
        yield Objection(
            "buffers",
            f"{listed(odd)}: vectors of a spectral norm whose length isn't 1, as if several models were averaged; the norm "
            "that they give is wrong: take them from the model that was trained, or run it in training mode for some steps",
            tuple(odd),
        )


def _length_is_odd(vector: torch.Tensor) -> bool:
    return vector.ndim == 1 and vector.is_floating_point() and abs(float(vector.double().norm()) - 1) > NEAR


def _other_frequencies(made: Plan, source: Source, model: object) -> Iterator[Objection]:
    """Frequencies follow from base and scaling: weights trained with some make another function with others."""
    keys = [key for key in made.source_specs if key.rpartition(".")[2] in FREQUENCIES]
    mine = _frequencies(model) if keys else {}
    for key in keys:
        stored = source.read(made.network, key)
        same = [(name, value) for name, value in mine.items() if value.shape == stored.shape]
        if same and not any(_near(stored, value) for _, value in same):
            name, value = same[0]
            yield Objection(
                "buffers",
                f"{key} of the file has other frequencies than {name} of the model (the lowest is {_lowest(stored)} in the "
                f"file, {_lowest(value)} in the model): the rotary embeddings have another base or scaling; build the model "
                "with that of the file, unless you mean to change it",
                (key, name),
            )
            return


def _frequencies(model: Any) -> dict[str, torch.Tensor]:
    """Return the rotary frequencies of a model that has values, by name; also those that no file holds."""
    if not hasattr(model, "named_buffers"):
        return {}
    found = {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] in FREQUENCIES}
    return {name: buffer for name, buffer in found.items() if not buffer.is_meta}


def _near(stored: torch.Tensor, value: torch.Tensor) -> bool:
    import torch

    return torch.allclose(stored.double(), value.detach().cpu().double(), rtol=NEAR, atol=0)


def _lowest(frequencies: torch.Tensor) -> str:
    return f"{float(frequencies.min()):.3g}"
