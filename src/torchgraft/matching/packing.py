"""How fused projections pack their parts along the rows: data with its source, and which entry a tensor falls under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchgraft.core.names import words

if TYPE_CHECKING:
    from collections.abc import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The order of rows in a fused tensor.

    `parts` are its parts in order. `groups` says how often that order repeats: 1 (each part once and whole), "heads"
    (within each head; with grouped queries, within each key head and its query heads) or a number of ranks. `beside`
    are paths, seen from the block around the attention module, that must be there too: names alone may be shared.
    `contested`: libraries disagree on what this name means, so that the convention is likely and not certain.
    `source` is where the convention can be read.
    """

    parts: tuple[str, ...]
    groups: int | str = 1
    beside: tuple[str, ...] = ()
    contested: bool = False
    source: str = ""


QKV, KV, GATE_UP = ("q", "k", "v"), ("k", "v"), ("gate", "up")

# The order that the name of the module spells out, as everybody who uses these names has it.
SPELLED = "as the name spells"
TORCH = "as in torch.nn.MultiheadAttention"

# By the words of the last segment of the module (or of the tensor): the first entry whose neighbours are there counts.
FUSED: dict[tuple[str, ...], tuple[Packing, ...]] = {
    ("qkv",): (Packing(parts=QKV, source=SPELLED),),
    ("to", "qkv"): (Packing(parts=QKV, source=SPELLED),),
    ("qkv", "proj"): (
        Packing(parts=("q", "v", "k"), groups=4, beside=("attn.out_proj", "mlp.fc_in"), contested=True,
                source="as in CodeGen in transformers, four ranks"),
        Packing(parts=QKV, contested=True, source="as in Phi-3 in transformers"),
    ),
    ("wqkv",): (
        Packing(parts=QKV, groups="heads", beside=("attention.wo", "feed_forward.w2"), contested=True,
                source="as in InternLM2, head by head"),
        Packing(parts=QKV, source="as in MPT, ModernBERT and flash-attention"),
    ),
    ("in", "proj"): (
        Packing(parts=QKV, groups="heads", beside=("self.pos_proj",), contested=True,
                source="as in DeBERTa in transformers, head by head"),
        Packing(parts=QKV, source=TORCH),
    ),
    ("c", "attn"): (Packing(parts=QKV, source="as in GPT-2"),),
    ("query", "key", "value"): (
        Packing(parts=QKV, groups="heads", contested=True,
                source="as in GPT-NeoX, BLOOM and Falcon in transformers, head by head"),
    ),
    ("linear", "qkv"): (
        Packing(parts=QKV, groups="heads", contested=True, source="as in Megatron-Core, head by head"),
    ),
    ("kv",): (Packing(parts=KV, source=SPELLED),),
    ("kv", "proj"): (Packing(parts=KV, source=SPELLED),),
    ("to", "kv"): (Packing(parts=KV, source=SPELLED),),
    ("gate", "up", "proj"): (Packing(parts=GATE_UP, source="as in Phi-3 in transformers"),),
    ("gate", "up"): (Packing(parts=GATE_UP, source=SPELLED),),
}  # fmt: skip


def packing_of(owner: str, owners: Container[str]) -> Packing | None:
    """Return how the fused module at the path `owner` packs its parts; None where its name is no fused one.

    `owners` are the paths of all modules with tensors on that side.
    """
    attention, _, last = owner.rpartition(".")
    block = attention.rpartition(".")[0]
    found = FUSED.get(words(last), ())
    return next((p for p in found if all(_under(block, path) in owners for path in p.beside)), None)


def _under(block: str, path: str) -> str:
    return f"{block}.{path}" if block else path
