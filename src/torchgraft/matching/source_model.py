"""The model that a checkpoint was saved from, under the names that the checkpoint has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.matching.names.naming import IDENTITY
from torchgraft.matching.names.prefixes import naming_of
from torchgraft.matching.parts.leaves import source_leaves, target_leaves


def origin_of(model: Target, specs: Mapping[str, TensorSpec], *, by_values: bool) -> Target:
    """Return the source's model with the file's names: one prefix may stand before those of either.

    With `by_values` its tensors will be found by their values: its names needn't be the file's.

    Raises:
        UsageError: the file doesn't hold most of the model's tensors, so that it was saved from another.
    """
    held = {name: slot for slot in model.slots if slot.persistent for name in slot.names}
    naming = naming_of(source_leaves(specs)[0], target_leaves(model.slots))
    files, own = naming.prefixes[0] if naming.prefixes else IDENTITY
    found: dict[str, Slot] = {}
    for name, slot in held.items():
        key = files + name.removeprefix(own)
        spec = specs.get(key)
        if spec is not None and name.startswith(own) and spec.numel == slot.spec.numel:
            found[key] = replace(slot, spec=replace(slot.spec, name=key), aliases=())
    if 2 * len(found) < len(held):
        if by_values:
            return model
        text = f"source_model has {len(held)} tensors, of which the checkpoint holds {len(found)} in the same size"
        raise UsageError(f"{text}: give the module that the checkpoint was saved from, or leave it out")

    paths = {path: files + path.removeprefix(own.rstrip(".")).removeprefix(".") for path in model.classes}
    kept = {path: new.rstrip(".") for path, new in paths.items() if f"{path}.".startswith(own)}
    return replace(
        model,
        slots=tuple(found.values()),
        classes={new: model.classes[path] for path, new in kept.items()},
        heads={kept[path]: count for path, count in model.heads.items() if path in kept},
    )


def in_order(names: list[str], origin: Target | None) -> list[str]:
    """Return names of tensors in the order in which the source's model registers them; others stay behind what is before."""
    if origin is None:
        return names
    order = {slot.name: at for at, slot in enumerate(origin.slots)}
    places: dict[str, int] = {}
    last = -1
    for name in names:
        last = places[name] = order.get(name, last)
    return sorted(names, key=places.__getitem__)
