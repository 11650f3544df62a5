"""How fused projections pack their parts along the rows: data with its source, and which entry a tensor falls under."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Literal

from torchgraft.core.match import Leaf
from torchgraft.core.names import parent_of, words
from torchgraft.core.specs import Shape
from torchgraft.matching.tables.dialect import ROLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The order of rows in a fused tensor."""

    parts: tuple[str, ...]  # in order
    # How often that order repeats: 1 (each part once and whole), "heads" (within each head; with grouped queries, within each
    # key head and its query heads), "rows" (row after row) or a number of ranks.
    groups: int | str = 1
    # Paths of modules, or of tensors of their own kind, that must be there too, as `module_at` reads them: names alone may be
    # shared.
    beside: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()  # the module that holds the tensor, or one inside of it, must be of one of these
    turned: bool = False  # the matrix must be stored [in, out]
    # Libraries disagree on what this name means, so that it is likely and not certain; "groups": on `groups` alone.
    contested: Literal["", "parts", "groups"] = ""
    open: bool = False  # as many use the other order, so that it is no more than a guess
    twins: bool = False  # other code packs otherwise under the very names that stand around: equal names prove nothing
    source: str = ""  # where the convention can be read


QKV, KV, GATE_UP = ("q", "k", "v"), ("k", "v"), ("gate", "up")

# Stands among the paths of a module for a network in which gate and up are one layer: it has twice the rows that the
# layer behind it takes.
GATED = "(gated)"

# The order that the name of the module spells out, as everybody who uses these names has it.
SPELLED = "as the name spells"
TORCH = "as in torch.nn.MultiheadAttention"

# A tensor of the attention's own: biases by the offset of two positions.
OFFSETS = "./attention_biases"
LEVIT = "head by head as in LeViT and EfficientFormer; others with such biases may go part by part"

# By the words of the last segment of the module (or of the tensor): the first entry whose neighbours are there counts.
FUSED: dict[tuple[str, ...], tuple[Packing, ...]] = {
    ("qkv",): (
        Packing(parts=QKV, groups="heads", classes=("QKVAttentionLegacy",),
                source="as in guided-diffusion's QKVAttentionLegacy, head by head"),
        Packing(parts=QKV, classes=("QKVAttention", "QKVFlashAttention"), source="as in guided-diffusion's QKVAttention"),
        Packing(parts=QKV, groups="heads", beside=("./norm", "./proj_out"), contested="groups", open=True, twins=True,
                source="head by head as in guided-diffusion by default; its new order and consistency models go part by part"),
        Packing(parts=QKV, groups="rows", beside=("./norm2", "./conv1", "./affine", "./proj"), contested="groups",
                source="as in EDM, row after row"),
        Packing(parts=QKV, groups="heads", beside=("./norm", "./proj"), contested="groups", open=True, twins=True,
                source="head by head as in TinyViT; others with a norm in the attention go part by part"),
        *[
            Packing(parts=QKV, groups="heads", beside=(table, stem), contested="groups", open=True,
                    source="head by head as in timm's MaxViT and CoAtNet; those that come from TensorFlow go part by part")
            for table in ("./rel_pos", "./rel_pos.mlp.fc1")
            for stem in ("../../../../stem.conv1", "../../../../../stem.conv1")
        ],
        Packing(parts=QKV, groups="heads", beside=(OFFSETS,), contested="groups", open=True, source=LEVIT),
        Packing(parts=QKV, source=SPELLED),
    ),
    ("to", "qkv"): (Packing(parts=QKV, source=SPELLED),),
    ("qkv", "proj"): (
        Packing(parts=("q", "v", "k"), groups=4, classes=("CodeGenAttention",), source="as in CodeGen, four ranks"),
        Packing(parts=QKV, groups="heads", classes=("MiniMaxLightningAttention",), source="as in MiniMax, head by head"),
        Packing(parts=QKV, classes=("Phi3Attention", "Phi4MultimodalAttention"), source="as in Phi-3 in transformers"),
        Packing(parts=("k", "v", "q"), beside=("self_attn_layer_norm", "fc1"), contested="parts",
                source="as in metaseq's OPT"),
        Packing(parts=("q", "v", "k"), groups=4, beside=("attn.out_proj", "mlp.fc_in"), contested="parts",
                source="as in CodeGen in transformers, four ranks"),
        Packing(parts=QKV, contested="parts", source="as in Phi-3 in transformers"),
    ),
    ("wqkv",): (
        Packing(parts=QKV, groups="heads", classes=("InternLM2Attention",), source="as in InternLM2, head by head"),
        Packing(parts=QKV, beside=("attention.wo", "feed_forward.w2", "../../output"),
                source="as in gpt-fast, part by part"),
        Packing(parts=QKV, groups="heads", beside=("attention.wo", "feed_forward.w2"), contested="groups",
                source="as in InternLM2, head by head"),
        Packing(parts=QKV, source="as in MPT, ModernBERT and flash-attention"),
    ),
    ("in", "proj"): (
        Packing(parts=QKV, classes=("MultiheadAttention",), source=TORCH),
        Packing(parts=QKV, groups="heads", beside=("self.pos_proj",), contested="groups",
                source="as in DeBERTa in transformers, head by head"),
        Packing(parts=QKV, source=TORCH),
    ),
    ("c", "attn"): (
        Packing(parts=QKV, groups="heads", classes=("GPTBigCodeAttention",),
                source="as in GPTBigCode in transformers, head by head without multi-query"),
        Packing(parts=QKV, turned=True, source="as in GPT-2"),
        Packing(parts=QKV, beside=("ln_1", "mlp.c_fc"), contested="groups", twins=True,
                source="as in nanoGPT; GPTBigCode in transformers without multi-query has its names and goes head by head"),
        Packing(parts=QKV, contested="groups",
                source="as in nanoGPT and Qwen; GPTBigCode in transformers without multi-query goes head by head"),
    ),
    ("query", "key", "value"): (
        Packing(parts=QKV, groups="heads", source="as in GPT-NeoX, BLOOM and Falcon in transformers, head by head", classes=(
            "GPTNeoXAttention", "GPTNeoXJapaneseAttention", "BloomAttention", "FalconAttention", "PersimmonAttention",
        )),
        Packing(parts=QKV, beside=("self_attention.dense", f"mlp.{GATED}"), contested="groups",
                source="as in ChatGLM, part by part"),
        Packing(parts=QKV, groups="heads", beside=("../../../embedding.word_embeddings",), contested="groups", open=True,
                source="head by head as in Megatron-LM since version 2 of its checkpoints; older ones go part by part"),
        *[
            Packing(parts=QKV, beside=("attention.dense", gate), contested="groups", source="as in Ling and Sarvam, part by "
            "part")
            for gate in ("mlp.gate_proj", "mlp.experts.0.gate_proj")
        ],
        Packing(parts=QKV, beside=("attention.dense", "mlp.fc1"), contested="groups",
                source="as in the images' part of CogVLM and GLM-4V, part by part"),
        *[
            Packing(parts=QKV, beside=("attention.dense", "mlp.dense_h_to_4h", words_at), contested="groups",
                    source="as in GLM and SwissArmyTransformer, part by part")
            for words_at in ("../../word_embeddings", "../../../word_embeddings")
        ],
        Packing(parts=QKV, groups="heads", contested="groups",
                source="as in GPT-NeoX, BLOOM and Falcon in transformers, head by head"),
    ),
    ("attn", "qkv"): (
        Packing(parts=QKV, beside=("./attn_output", "./ffn_up"), source="as in llama.cpp, part by part"),
        Packing(parts=QKV, contested="groups", open=True, source=SPELLED),
    ),
    ("linear", "qkv"): (
        Packing(parts=QKV, groups="heads", contested="groups", source="as in Megatron-Core, head by head"),
    ),
    ("kv",): (
        Packing(parts=KV, groups="heads", beside=(OFFSETS,), contested="groups", open=True, source=LEVIT),
        Packing(parts=KV, source=SPELLED),
    ),
    ("kv", "proj"): (Packing(parts=KV, source=SPELLED),),
    ("to", "kv"): (Packing(parts=KV, source=SPELLED),),
    ("kv", "linear"): (Packing(parts=KV, source=SPELLED),),
    ("qkv", "linear"): (Packing(parts=QKV, contested="parts", source=SPELLED),),
    ("gate", "up", "proj"): (Packing(parts=GATE_UP, source="as in Phi-3 in transformers"),),
    ("gate", "up"): (Packing(parts=GATE_UP, source=SPELLED),),
    # Code that is called so may as well activate the first half: it has the gate there.
    ("up", "gate", "proj"): (Packing(parts=("up", "gate"), contested="parts", open=True, source=SPELLED),),
    ("up", "gate"): (Packing(parts=("up", "gate"), contested="parts", open=True, source=SPELLED),),
}  # fmt: skip

# Letters in another order, as people write them (`kqv`): what they mean is as plain, and has no library to vouch for it.
FUSED |= {
    name: (Packing(parts=parts, contested="parts", source=SPELLED),)
    for parts in [*permutations(QKV), *permutations(KV)] if parts not in (QKV, KV)
    for letters in ["".join(parts)]
    for name in [(letters,), ("to", letters), (letters, "proj")]
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

# Stacks of experts that hold gate and up by their own name: half by half as in Mixtral in transformers and vLLM, or row by
# row as in gpt-oss in transformers.
STACKED = frozenset({("gate", "up"), ("gate", "up", "proj"), ("w", "13"), ("w", "13", "weight")})


def is_gated_stack(leaf: Leaf) -> bool:
    """Return whether a bare tensor holds gate and up of all experts, by its name."""
    return len(leaf.shape) == 3 and words(leaf.role) in STACKED


@dataclass(frozen=True, slots=True)
class Owners:
    """The modules of a side that hold tensors.

    `turned` tells for each path whether the matrix there is stored [in, out]. `wrapped` leads from a layer inside a module of a
    fused name, beside an adapter or alone, to that module, which then counts as the layer.
    """

    turned: Mapping[str, bool] = field(default_factory=dict)
    wrapped: Mapping[str, str] = field(default_factory=dict)

    def layer_at(self, path: str) -> str:
        """Return the path of the layer that the module at `path` is, or is the inner part of."""
        return self.wrapped.get(path, path)


def owners_of(leaves: Sequence[Leaf]) -> Owners:
    """Return the modules with tensors on a side.

    Where the module's class doesn't tell, the shape does: of three parts side by side, [n, 3n] is [in, out]. Networks
    whose gate and up are one layer are there, too, as `GATED` in their path, and tensors that are no weight or bias.
    """
    turned: dict[str, bool] = {}
    inside: dict[str, set[Shape]] = {}
    for leaf in leaves:
        owner = leaf.owner
        rows, columns = leaf.shape if len(leaf.shape) == 2 else (1, 1)
        turned[owner] = turned.get(owner, False) or bool(leaf.turned) or columns == len(QKV) * rows
        if len(leaf.shape) == 2 and leaf.role == "weight":
            inside.setdefault(owner.rpartition(".")[0], set()).add(leaf.shape)
    wrapped = inner_layers(leaves, [leaf.owner for leaf in leaves], _named_fused)
    turned |= {around: turned[layer] for layer, around in wrapped.items()}
    turned |= {leaf.name: False for leaf in leaves if leaf.role not in ROLES}
    for path, shapes in inside.items():
        if any((2 * f, d) in shapes for d, f in shapes):
            turned[f"{path}.{GATED}" if path else GATED] = False
    return Owners(turned, wrapped)


def inner_layers(leaves: Iterable[Leaf], paths: Sequence[str], is_layer: Callable[[str], bool]) -> dict[str, str]:
    """Return layer -> the module around it, for modules that are called as a layer and hold one instead of a tensor.

    `paths` are those of the layers of the leaves, `is_layer` says which are called so. The layer is the one with the largest
    matrix, as an adapter beside it has smaller ones.
    """
    held: dict[str, dict[str, int]] = {}
    for leaf, path in zip(leaves, paths, strict=True):
        around = path.rpartition(".")[0]
        if leaf.role == "weight" and len(leaf.shape) == 2 and is_layer(around) and not is_layer(path):
            held.setdefault(around, {})[path] = leaf.numel
    owners = set(paths) if held else set()
    return {max(sizes, key=sizes.__getitem__): around for around, sizes in held.items() if around not in owners}


def only_packing(name: tuple[str, ...], layers: Container[str]) -> Packing | None:
    """Return how all code packs the rows under this fused name whose modules are called only as `layers` are.

    None where that isn't one way, or one that is contested.
    """
    found = [p for p in FUSED[name] if all(_last(path) in layers or GATED in path for path in p.beside)]
    one_way = len({(p.parts, p.groups) for p in found}) == 1 and not any(p.contested for p in found)
    return found[0] if one_way else None


def _last(path: str) -> str:
    """Return the last segment of a path such as "./norm"."""
    return path.replace("/", ".").rpartition(".")[2]


def any_named_fused(leaves: Iterable[Leaf]) -> bool:
    """Whether a leaf lies in a module whose name is one for fused rows, or in a layer of one: of most models none does."""
    return any(words(last) in FUSED for last in {part for leaf in leaves for part in leaf.owner.split(".")[-2:]})


def _named_fused(path: str) -> bool:
    return words(path.rpartition(".")[2]) in FUSED


def packing_of(owner: str, owners: Owners, classes: Collection[str] = ()) -> Packing | None:
    """Return how the fused module at the path `owner` packs its parts; None where its name is no fused one.

    `owners` are the modules with tensors on that side; `classes` what is known of the attention module's class and of
    those inside of it.
    """
    owner = owners.layer_at(owner)
    found = FUSED.get(words(owner.rpartition(".")[2]))
    if found is None:
        return None
    return entry([p for p in found if owners.turned.get(owner) or not p.turned], owner, owners.turned, classes)


def entry(
    packings: Iterable[Packing], owner: str, owners: Container[str], classes: Collection[str] = ()
) -> Packing | None:
    """Return the first of the packings whose neighbours and classes are there around the module at the path `owner`."""
    attention = owner.rpartition(".")[0]
    fitting = (p for p in packings if not p.classes or any(name in classes for name in p.classes))
    return next((p for p in fitting if all(module_at(attention, path) in owners for path in p.beside)), None)


def module_at(attention: str, path: str) -> str:
    """Return the module that `path` means, seen from the block around the module at `attention`.

    "./" in front: from that module itself; each "../": from one module further out.
    """
    return module_in(attention if path.startswith("./") else parent_of(attention), path.removeprefix("./"))


def module_in(block: str, path: str) -> str:
    """Return the path of what `path` means, seen from the module at `block`; each "../" leads one module further out."""
    while path.startswith("../"):
        block, path = parent_of(block), path.removeprefix("../")
    return f"{block}.{path}" if block else path


def packed_alike(a: Packing | None, b: Packing | None) -> bool:
    """Whether two fused tensors of equal shape keep their rows in the same order by what is known of each."""
    return (a and (a.parts, a.groups)) == (b and (b.parts, b.groups))


def one_code(source: Leaf, target: Leaf, owners: tuple[Owners, Owners]) -> bool:
    """Whether tensors of one name may be taken for the same code's: their shapes and orientation agree, and no class differs.

    A matrix that is stored the other way round comes from other code, and so do its parts.
    """
    if source.shape != target.shape or owners[0].turned.get(source.owner) != owners[1].turned.get(target.owner):
        return False
    return not source.around or not target.around or source.around[0] == target.around[0]


def kept_whole(
    pair: tuple[Leaf, Leaf],
    packings: tuple[Packing | None, Packing | None],
    owners: tuple[Owners, Owners],
) -> bool:
    """Whether two fused tensors of one name go over whole: their rows stand alike, or nothing but a name says otherwise."""
    ours, theirs = (leaf.rotary for leaf in pair)
    if ours and theirs and ours.layout != theirs.layout:
        return False
    if packed_alike(*packings):
        return True
    return any(p is not None and p.contested for p in packings) and one_code(*pair, owners)


def packed_otherwise(pairs: Iterable[tuple[Leaf, Leaf]], sources: Sequence[Leaf], targets: Sequence[Leaf]) -> bool:
    """Whether a fused tensor stands beside one of the same name whose rows go in another order."""
    pairs = list(pairs)
    if not any_named_fused(leaf for pair in pairs for leaf in pair):
        return False
    fused = [pair for pair in pairs if any_named_fused(pair)]
    owners = owners_of(sources), owners_of(targets)
    packings = [(packing_of_leaf(a, owners[0]), packing_of_leaf(b, owners[1])) for a, b in fused]
    known = [(pair, both) for pair, both in zip(fused, packings, strict=True) if None not in both]
    return any(not kept_whole(pair, both, owners) for pair, both in known)


def packing_of_leaf(leaf: Leaf, owners: Owners) -> Packing | None:
    """Return how a leaf packs its parts by its name, None for one that isn't fused."""
    return packing_of(leaf.owner, owners, leaf.around) if holds_rows(leaf) else None


def holds_rows(leaf: Leaf) -> bool:
    """Return whether a leaf is a tensor whose rows may be those of several parts."""
    return ROLES.get(leaf.role) in ("weight", "bias") and leaf.form == "plain" and bool(leaf.shape)
