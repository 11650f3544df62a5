"""How fused projections pack their parts along the rows: data with its source, and which entry a tensor falls under."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.names import covers, words

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from torchgraft.core.match import Leaf
    from torchgraft.core.specs import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The order of rows in a fused tensor.

    `parts` are its parts in order. `groups` says how often that order repeats: 1 (each part once and whole), "heads"
    (within each head; with grouped queries, within each key head and its query heads) or a number of ranks. `beside`
    are paths, seen from the block around the attention module, that must be there too: names alone may be shared.
    `turned`: the matrix must be stored [in, out]. `contested`: libraries disagree on what this name means, so that the
    convention is likely and not certain; "groups" where all they disagree on is whether the order repeats in each head.
    `source` is where the convention can be read.
    """

    parts: tuple[str, ...]
    groups: int | str = 1
    beside: tuple[str, ...] = ()
    turned: bool = False
    contested: Literal["", "parts", "groups"] = ""
    source: str = ""


QKV, KV, GATE_UP = ("q", "k", "v"), ("k", "v"), ("gate", "up")

# Stands among the paths of a module for a network in which gate and up are one layer: it has twice the rows that the
# layer behind it takes.
GATED = "(gated)"

# The order that the name of the module spells out, as everybody who uses these names has it.
SPELLED = "as the name spells"
TORCH = "as in torch.nn.MultiheadAttention"

# By the words of the last segment of the module (or of the tensor): the first entry whose neighbours are there counts.
FUSED: dict[tuple[str, ...], tuple[Packing, ...]] = {
    ("qkv",): (Packing(parts=QKV, source=SPELLED),),
    ("to", "qkv"): (Packing(parts=QKV, source=SPELLED),),
    ("qkv", "proj"): (
        Packing(parts=("k", "v", "q"), beside=("self_attn_layer_norm", "fc1"), contested="parts",
                source="as in metaseq's OPT"),
        Packing(parts=("q", "v", "k"), groups=4, beside=("attn.out_proj", "mlp.fc_in"), contested="parts",
                source="as in CodeGen in transformers, four ranks"),
        Packing(parts=QKV, contested="parts", source="as in Phi-3 in transformers"),
    ),
    ("wqkv",): (
        Packing(parts=QKV, groups="heads", beside=("attention.wo", "feed_forward.w2"), contested="groups",
                source="as in InternLM2, head by head"),
        Packing(parts=QKV, source="as in MPT, ModernBERT and flash-attention"),
    ),
    ("in", "proj"): (
        Packing(parts=QKV, groups="heads", beside=("self.pos_proj",), contested="groups",
                source="as in DeBERTa in transformers, head by head"),
        Packing(parts=QKV, source=TORCH),
    ),
    ("c", "attn"): (
        Packing(parts=QKV, turned=True, source="as in GPT-2"),
        Packing(parts=QKV, contested="groups",
                source="as in nanoGPT and Qwen; GPTBigCode in transformers without multi-query goes head by head"),
    ),
    ("query", "key", "value"): (
        Packing(parts=QKV, beside=("self_attention.dense", f"mlp.{GATED}"), contested="groups",
                source="as in ChatGLM, part by part"),
        Packing(parts=QKV, groups="heads", contested="groups",
                source="as in GPT-NeoX, BLOOM and Falcon in transformers, head by head"),
    ),
    ("linear", "qkv"): (
        Packing(parts=QKV, groups="heads", contested="groups", source="as in Megatron-Core, head by head"),
    ),
    ("kv",): (Packing(parts=KV, source=SPELLED),),
    ("kv", "proj"): (Packing(parts=KV, source=SPELLED),),
    ("to", "kv"): (Packing(parts=KV, source=SPELLED),),
    ("gate", "up", "proj"): (Packing(parts=GATE_UP, source="as in Phi-3 in transformers"),),
    ("gate", "up"): (Packing(parts=GATE_UP, source=SPELLED),),
}  # fmt: skip

# Names that are fused in some libraries and single in others: the shapes tell which, and then these entries count.
SHAPED: dict[tuple[str, ...], tuple[Packing, ...]] = {
    ("w", "pack"): (Packing(parts=QKV, contested="parts", source="as in Baichuan"),),
    ("att", "proj"): (Packing(parts=QKV, contested="parts", source="as in OLMo and Bark"),),
    ("ff", "proj"): (Packing(parts=("up", "gate"), contested="parts", source="as in OLMo"),),
    ("dense", "h", "to", "4", "h"): (Packing(parts=GATE_UP, contested="parts", source="as in ChatGLM"),),
    ("linear", "fc", "1"): (Packing(parts=GATE_UP, contested="parts", source="as in Megatron-Core"),),
    ("weights", "in"): (Packing(parts=GATE_UP, contested="parts", source="as in DINOv2 in transformers"),),
    ("w", "12"): (Packing(parts=GATE_UP, contested="parts", source="as in DINOv2"),),
    ("wi",): (Packing(parts=GATE_UP, contested="parts", source="as in ModernBERT"),),
    ("fc", "1"): (
        Packing(parts=("up", "gate"), beside=("mixer.Wqkv",), contested="parts", source="as in flash-attention"),
    ),
}


def owners_of(leaves: Iterable[Leaf]) -> dict[str, bool]:
    """Return the paths of all modules with tensors on a side, and whether their matrix is stored [in, out].

    Where the module's class doesn't tell, the shape does: of three parts side by side, [n, 3n] is [in, out]. Networks
    whose gate and up are one layer are there, too, as `GATED` in their path.
    """
    found: dict[str, bool] = {}
    inside: dict[str, set[Shape]] = {}
    for leaf in leaves:
        owner = leaf.owner
        rows, columns = leaf.shape if len(leaf.shape) == 2 else (1, 1)
        found[owner] = found.get(owner, False) or bool(leaf.turned) or columns == len(QKV) * rows
        if len(leaf.shape) == 2 and leaf.role == "weight":
            inside.setdefault(owner.rpartition(".")[0], set()).add(leaf.shape)
    gated = (path for path, shapes in inside.items() if any((2 * f, d) in shapes for d, f in shapes))
    return found | {f"{path}.{GATED}" if path else GATED: False for path in gated}


def packing_of(owner: str, owners: Mapping[str, bool]) -> Packing | None:
    """Return how the fused module at the path `owner` packs its parts; None where its name is no fused one.

    `owners` are the paths of all modules with tensors on that side, with whether their matrix is stored [in, out].
    """
    found = FUSED.get(words(owner.rpartition(".")[2]))
    if found is None:
        return None
    return entry([p for p in found if owners.get(owner) or not p.turned], owner, owners)


def entry(packings: Iterable[Packing], owner: str, owners: Container[str]) -> Packing | None:
    """Return the first of the packings whose neighbours are there around the module at the path `owner`."""
    block = owner.rpartition(".")[0].rpartition(".")[0]
    return next((p for p in packings if all(_under(block, path) in owners for path in p.beside)), None)


def _under(block: str, path: str) -> str:
    return f"{block}.{path}" if block else path


# What the caller may say of the rows of fused q, k, v: the groups of a packing.
LAYOUTS: dict[str, int | str] = {"flat": 1, "per_head": "heads"}
SAID = "as you said"


@dataclass(frozen=True, slots=True)
class Stated:
    """What the caller says of fused q, k, v: layouts by pattern of names ("*": of all whose names are known), and heads."""

    layouts: Mapping[str, str] = field(default_factory=dict)
    heads: int | None = None

    def of(self, leaf: Leaf, owners: Mapping[str, bool]) -> Packing | None:
        """Return how a leaf packs its parts: as stated, else as its name says; None for one that isn't fused."""
        named = packing_of_leaf(leaf, owners)
        for pattern, layout in self.layouts.items():
            general = pattern == "*" and (named is None or "q" not in named.parts)
            if not general and _holds_rows(leaf) and any(covers(pattern, name) for name in (leaf.name, *leaf.keys)):
                base = named or Packing(parts=QKV)
                return replace(base, groups=LAYOUTS[layout], contested="", source=SAID)
        return named


NOTHING = Stated()


@dataclass(frozen=True, slots=True)
class Sides:
    """What is stated of the file and of the model."""

    source: Stated
    target: Stated


def sides_of(stated: Stated, sources: Iterable[Leaf], targets: Iterable[Leaf]) -> Sides:
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
    return Sides(Stated(ours, stated.heads), Stated(theirs, stated.heads))


def alike(a: Packing | None, b: Packing | None) -> bool:
    """Whether two fused tensors of equal shape keep their rows in the same order."""
    return (a and (a.parts, a.groups)) == (b and (b.parts, b.groups))


def _meant(pattern: str, leaves: list[Leaf]) -> list[Packing | None]:
    """Return the packings by name of the leaves that a pattern is about."""
    owners = owners_of(leaves)
    packings = [(leaf, packing_of_leaf(leaf, owners)) for leaf in leaves if _holds_rows(leaf)]
    if pattern == "*":
        return [packing for _, packing in packings if packing and "q" in packing.parts]
    return [packing for leaf, packing in packings if any(covers(pattern, name) for name in (leaf.name, *leaf.keys))]


def packing_of_leaf(leaf: Leaf, owners: Mapping[str, bool]) -> Packing | None:
    """Return how a leaf packs its parts by its name, None for one that isn't fused."""
    return packing_of(leaf.owner, owners) if _holds_rows(leaf) else None


def _holds_rows(leaf: Leaf) -> bool:
    return leaf.role in ("weight", "bias") and leaf.form == "plain" and bool(leaf.shape)
