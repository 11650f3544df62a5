"""Each side as leaves, with what classes and names tell of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torchgraft.core.match import Leaf
from torchgraft.core.names import parent_of
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.matching.parts.leaves import as_stored, source_leaves, target_leaves, with_classes
from torchgraft.matching.tables.rotary import with_rotary
from torchgraft.matching.tables.stated import Models


def targets_of(models: Models) -> list[Leaf]:
    """Return the leaves of the model."""
    leaves = with_classes(target_leaves(models.target.slots), models.target.classes, {})
    return with_rotary(leaves, lambda path: models.stated.heads or models.target.heads_at(path))


def sources_of(
    keys: Mapping[str, str], specs: Mapping[str, TensorSpec], models: Models, held: Mapping[str, Shape]
) -> tuple[list[Leaf], dict[str, str]]:
    """Return the leaves of the file by the names to match by, and the names of its derived tensors with what they derive from.

    `keys` has the file's key for each name, `held` the shapes of the model's tensors. What a key tells of rows counts under
    its own name, not under the one to match by.
    """
    classes = models.source.classes if models.source else {}
    kinds = {parent_of(name): classes.get(parent_of(key), "") for name, key in keys.items()} if classes else None
    shown = {name: specs[key] if name == key else _renamed(specs[key], name) for name, key in keys.items()}
    sources, derived = source_leaves(shown, kinds, held)
    sources = with_classes(sources, classes, keys)
    is_moved = list(keys) != list(keys.values())
    paths = [as_stored(leaf, keys) for leaf in sources] if is_moved else None

    def heads(path: str) -> int | None:
        return models.stated.heads or models.source_heads(path)

    return with_rotary(sources, heads, paths, models.architecture), derived


def _renamed(spec: TensorSpec, name: str) -> TensorSpec:
    return spec if spec.name == name else replace(spec, name=name)
