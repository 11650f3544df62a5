"""What is known beside tensors: the two models, what the caller says of fused projections, and of which side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.match import Leaf
from torchgraft.core.names import covers
from torchgraft.core.specs import Target
from torchgraft.matching.tables.packing import QKV, Owners, Packing, holds_rows, owners_of, packing_of_leaf

# What the caller may say of the rows of fused q, k, v: the groups of a packing.
LAYOUTS: dict[str, int | str] = {"flat": 1, "per_head": "heads"}
SAID = "as you said"


@dataclass(frozen=True, slots=True)
class Stated:
    """What the caller says of fused q, k, v: layouts by pattern of names ("*": of all whose names are known), and heads."""

    layouts: Mapping[str, str] = field(default_factory=dict)
    heads: int | None = None

    def of(self, leaf: Leaf, owners: Owners) -> Packing | None:
        """Return how a leaf packs its parts: as stated, else as its name says; None for one that isn't fused."""
        named = packing_of_leaf(leaf, owners)
        for pattern, layout in self.layouts.items():
            general = pattern == "*" and (named is None or "q" not in named.parts)
            if not general and holds_rows(leaf) and any(covers(pattern, name) for name in (leaf.name, *leaf.keys)):
                base = named or Packing(parts=QKV)
                return replace(base, groups=LAYOUTS[layout], contested="", open=False, source=SAID)
        return named


NOTHING = Stated()


@dataclass(frozen=True, slots=True)
class Models:
    """The model to fill, the one that the checkpoint was saved from where that is at hand, and what the caller says.

    `architecture`: what the file says that it holds, "" where it doesn't.
    """

    target: Target
    source: Target | None = None
    stated: Stated = NOTHING
    architecture: str = ""

    def source_heads(self, path: str) -> int | None:
        """Return the number of attention heads at a path of the source.

        Without the source's model it is that of the model to fill, if all its attention modules have the same: other
        numbers would make other outputs.
        """
        if self.source is not None:
            return self.source.heads_at(path)
        counts = set(self.target.heads.values())
        return counts.pop() if len(counts) == 1 else None


@dataclass(frozen=True, slots=True)
class StatedSides:
    """What is stated of the file and of the model."""

    source: Stated
    target: Stated


def sides_of(stated: Stated, sources: Iterable[Leaf], targets: Iterable[Leaf]) -> StatedSides:
    """Return which side each statement is about.

    One that names tensors is about the file's, or else about the model's. One about all is about the side that has
    fused q, k, v; of both, about the one whose names are usual for that layout; else about the file.

    Raises:
        UsageError: it is about no tensor of either side, or the number of heads is missing.
    """
    sources, targets = list(sources), list(targets)
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for pattern, layout in stated.layouts.items():
        names = (_meant(pattern, sources), _meant(pattern, targets))
        if not any(names):
            text = (
                "neither side has fused q, k, v under a name that is known: name them, e.g. {'attn.fused': 'per_head'}"
            )
            raise UsageError(
                "qkv_layout: " + (text if pattern == "*" else f"no tensor is called {printable(pattern)!r}")
            )
        usual = tuple(any(p is not None and p.groups == LAYOUTS[layout] for p in side) for side in names)
        about_target = not names[0] or (pattern == "*" and bool(names[1]) and usual == (False, True))
        (theirs if about_target else ours)[pattern] = layout
    if "per_head" in stated.layouts.values() and stated.heads is None:
        raise UsageError("qkv_layout='per_head' needs num_heads=, the number of query heads")
    return StatedSides(Stated(ours, stated.heads), Stated(theirs, stated.heads))


def _meant(pattern: str, leaves: list[Leaf]) -> list[Packing | None]:
    """Return the packings by name of the leaves that a pattern is about."""
    owners = owners_of(leaves)
    packings = [(leaf, packing_of_leaf(leaf, owners)) for leaf in leaves if holds_rows(leaf)]
    if pattern == "*":
        return [packing for _, packing in packings if packing and "q" in packing.parts]
    return [packing for leaf, packing in packings if any(covers(pattern, name) for name in (leaf.name, *leaf.keys))]
