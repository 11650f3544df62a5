"""How rotary queries and keys pair their rows: data with its source, and which entry a tensor falls under."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.match import EITHER, Leaf, Rotary
from torchgraft.core.names import above
from torchgraft.core.specs import Shape
from torchgraft.matching.tables.packing import inner_layers, module_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The pairs that go by the names of a block."""

    query: str  # the path of the projection in the block
    key: str  # the same, or that of the fused one again
    # Paths that must be there too (each "../" leads one module further out): names of the projections alone are shared by
    # models that pair otherwise, or not at all.
    beside: tuple[str, ...]
    # "half": row i with row i of the other half of its head; "interleaved": rows beside each other; or EITHER
    layout: str
    source: str  # where that can be read
    # Of which architectures alone, where the file says what it holds and one program gives many the same names.
    of: frozenset[str] = frozenset()


# The parts of a fused projection whose rows pair up.
ROTATED = frozenset({"q", "k"})

# llama.cpp (llama_model_rope_type in src/llama-model.cpp) pairs rows beside each other in the first of these architectures,
# and its conversion (convert_hf_to_gguf.py) puts them so; it pairs those of the others as transformers does.
LLAMA_CPP = ("attn_norm", "attn_output", "ffn_norm")
PERMUTED = frozenset({
    "arcee", "arctic", "baichuan", "deci", "deepseek", "granite", "granitemoe", "internlm2", "llama", "minicpm", "mistral3",
    "olmo", "smollm3", "xverse",
})  # fmt: skip
LEFT = frozenset({
    "exaone", "gemma", "gemma2", "gemma3", "nemotron", "olmo2", "olmoe", "phi2", "phi3", "phimoe", "qwen2", "qwen2moe", "qwen3",
    "qwen3moe", "stablelm", "starcoder2",
})  # fmt: skip

LLAMA = ("input_layernorm", "post_attention_layernorm", "self_attn.o_proj")
TRANSFORMERS = "as in Llama in transformers, half with half"

PAIRINGS = (
    Pairing(query="attention.wqkv", key="attention.wqkv", layout="interleaved", source="as in gpt-fast, row beside row",
            beside=("attention_norm", "ffn_norm", "attention.wo", "../../output")),
    Pairing(query="attention.wqkv", key="attention.wqkv", layout="half", source="as in InternLM2, half with half",
            beside=("attention_norm", "ffn_norm", "attention.wo")),
    Pairing(query="attention.wq", key="attention.wk", layout="interleaved", source="as in Meta's code of Llama, row beside row",
            beside=("attention_norm", "ffn_norm", "attention.wo")),
    Pairing(query="attn.q_proj", key="attn.k_proj", layout="interleaved", source="as in torchtune, row beside row",
            beside=("sa_norm", "mlp.w1")),
    Pairing(query="self_attn.q_proj", key="self_attn.k_proj", layout="interleaved", source="as in fairseq2, row beside row",
            beside=("self_attn_layer_norm", "ffn.gate_proj")),
    Pairing(query="attn.c_attn", key="attn.c_attn", layout="interleaved", source="as in lit-llama, row beside row",
            beside=("rms_1", "mlp.c_fc1")),
    Pairing(query="self_attn.q_proj", key="self_attn.k_proj", layout="half", source=TRANSFORMERS, beside=LLAMA),
    Pairing(query="self_attn.qkv_proj", key="self_attn.qkv_proj", layout="half", source=TRANSFORMERS, beside=LLAMA),
    Pairing(query="self_attn.q_proj", key="self_attn.k_proj", layout="half", source="as in Phi in transformers, half with half",
            beside=("self_attn.dense", "input_layernorm", "mlp.fc1")),
    Pairing(query="attention.query_key_value", key="attention.query_key_value", layout="half",
            source="as in GPT-NeoX in transformers, half with half",
            beside=("attention.dense", "input_layernorm", "post_attention_layernorm", "mlp.dense_h_to_4h")),
    Pairing(query="attn.qkv", key="attn.qkv", layout="half", source="as in litgpt, half with half",
            beside=("norm_1", "mlp.proj")),
    Pairing(query="attn_q", key="attn_k", layout="interleaved", source="as llama.cpp writes Llama, row beside row",
            beside=LLAMA_CPP, of=PERMUTED),
    Pairing(query="attn_q", key="attn_k", layout="half", source="as llama.cpp leaves what it doesn't reorder, half with half",
            beside=LLAMA_CPP, of=LEFT),
    Pairing(query="attn_q", key="attn_k", layout=EITHER, beside=LLAMA_CPP,
            source="llama.cpp reorders the rows of some architectures (Llama) and not those of others, and which one this is "
            "isn't known"),
)  # fmt: skip
_PATHS = tuple({path for pairing in PAIRINGS for path in (pairing.query, pairing.key)})


def with_rotary(
    leaves: Sequence[Leaf],
    heads: Callable[[str], int | None],
    paths: Sequence[str] | None = None,
    architecture: str = "",
) -> list[Leaf]:
    """Return the leaves with the pairs of their rows, where the names tell; `heads` tells the number of query heads.

    `paths` are those of the layers of the leaves, where they aren't called as in the code that made them. A layer that a
    module of the projection's name holds, beside an adapter or alone, is the projection.
    """
    paths = [leaf.owner for leaf in leaves] if paths is None else paths
    wrapped = inner_layers(leaves, paths, lambda path: path.endswith(_PATHS))
    paths = [wrapped.get(path, path) for path in paths] if wrapped else paths
    pairings = _pairings(set(paths), architecture)
    if not pairings:
        return list(leaves)
    found = list(leaves)
    paired = [(at, path) for at, path in enumerate(paths) if path in pairings]
    shapes = {path: found[at].shape for at, path in paired if found[at].shape and found[at].role == "weight"}
    inside = ((at, around) for at, path in enumerate(paths) for around in above(f"{path}.") if around in shapes)
    paired = [(at, path) for at, path in paired if found[at].role in ("weight", "bias")]
    for at, path in (*paired, *((at, around) for at, around in inside if _has_its_rows(found[at], shapes[around]))):
        found[at] = _told(found[at], path, pairings[path], shapes, heads)
    return found


def _has_its_rows(leaf: Leaf, projection: Shape) -> bool:
    """Whether a tensor in a projection of this shape has its rows, and is no other matrix of its inputs: a factor of an adapter."""
    return leaf.shape[:1] == projection[:1] and leaf.shape[1:] != projection[1:]


def paired_alike(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Return whether names of tensors tell no two ways for a projection of both sides, whose rows they say to pair."""
    one, other = ({name.rpartition(".")[0] for name in names} for names in (ours, theirs))
    if one == other:
        return True
    known, there = _pairings(one), _pairings(other)
    return all(known[path][0].layout == there[path][0].layout for path in known.keys() & there.keys())


def _pairings(owners: Collection[str], architecture: str = "") -> dict[str, tuple[Pairing, str]]:
    """Return what goes for the projections among the modules `owners`, each with the block that it stands in."""
    found: dict[str, tuple[Pairing, str]] = {}
    around = {owner.rpartition(".")[0] for owner in owners}  # layers beside may be wrapped, too
    for owner in [owner for owner in owners if owner.endswith(_PATHS)]:
        for pairing in [one for one in PAIRINGS if not one.of or architecture in one.of]:
            for path in {pairing.query, pairing.key}:
                block = _block(owner, path)
                if block is not None and all(
                    (beside := module_in(block[:-1], other)) in owners or beside in around
                    for other in _others(pairing, path)
                ):
                    found.setdefault(owner, (pairing, block))
    return found


def _others(pairing: Pairing, path: str) -> Iterable[str]:
    return (other for other in (pairing.query, pairing.key, *pairing.beside) if other != path)


def _block(owner: str, path: str) -> str | None:
    """Return what stands before `path` in a dotted name, its dot included; None where the name ends otherwise."""
    before = owner.removesuffix(path)
    return before if before != owner and (not before or before.endswith(".")) else None


def _told(
    leaf: Leaf,
    path: str,
    found: tuple[Pairing, str],
    shapes: Mapping[str, Shape],
    heads: Callable[[str], int | None],
) -> Leaf:
    if leaf.form != "plain":
        return leaf
    pairing, block = found
    count = heads(leaf.owner)
    if count and pairing.query != pairing.key and path == f"{block}{pairing.key}":
        count = _key_heads(count, shapes.get(f"{block}{pairing.query}", (0,))[0], leaf.shape[0])
    return replace(leaf, rotary=Rotary(pairing.layout, count or 0, pairing.source, fused=pairing.query == pairing.key))


def _key_heads(heads: int, query: int, key: int) -> int:
    """Return the number of key heads: with grouped queries there are fewer, of the same size."""
    return heads * key // query if query and heads * key % query == 0 else 0
