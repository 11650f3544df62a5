"""What a plan was made for, in one word: a digest over names, shapes and element types, without values."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torchgraft.core.specs import Slot, TensorSpec


def of_specs(specs: Iterable[TensorSpec]) -> str:
    """Return the fingerprint of a checkpoint's network; the order of its tensors is of no account."""
    return _digest("\0".join((spec.name, str(spec.dtype), str(spec.shape))) for spec in specs)


def of_slots(slots: Iterable[Slot]) -> str:
    """Return the fingerprint of a model: its slots under all their names, in whatever order."""
    lines = ((*sorted(slot.names), slot.spec.dtype, slot.spec.shape, slot.persistent) for slot in slots)
    return _digest("\0".join(map(str, line)) for line in lines)


def _digest(lines: Iterable[str]) -> str:
    return "sha256:" + sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()
