"""What names in files and models mean to adapting: data with its source (matching has tables of its own)."""

from __future__ import annotations

# Words of what holds a row for each position, token or pair, and is never turned.
NEVER_TURNED = frozenset({
    "bias", "biases", "cls", "embed", "embedding", "embeddings", "embs", "emb", "mask", "pos", "position", "positional",
    "positions", "queries", "query", "register", "rel", "relative", "segment", "table", "tables", "tok", "token", "tokens",
    "wpe", "wte",
})  # fmt: skip
# Words of tables that hold a row for each word of a vocabulary.
VOCABULARY_WORDS = frozenset({"wte", "tok", "token", "tokens", "word", "words", "vocab", "shared"})
# Tokens that stand before the patches, in the order in which models put them there.
PREFIX_TOKENS = (("cls", "class"), ("dist", "distillation"), ("reg", "register"))
# Words of tables whose rows are a few tokens or kinds of them, and no vocabulary.
NO_VOCABULARY_WORDS = frozenset({
    "mask", "type", "query", "queries", *(word for names in PREFIX_TOKENS for word in names)
})  # fmt: skip
# Words of tables whose rows are positions, and of those whose rows are offsets between two.
POSITION_WORDS = frozenset({"pos", "position", "positional", "positions", "wpe"})
OFFSET_WORDS = frozenset({"relative", "rel"})
# Words of relative tables of one axis (SAM, MViT); others hold a row for each offset within a window.
AXIS_WORDS = frozenset({"h", "w", "t", "height", "width", "time"})
# Words of absolute tables that hold a row for each frame, or for each patch of one frame.
FRAME_WORDS = frozenset({"time", "temporal", "frame", "frames"})
PLANE_WORDS = frozenset({"spatial", "space"})

# How the reference code of Llama and transformers call the projections whose rows rotary embeddings turn in pairs: there rows
# beside each other make a pair, here those half a head apart (transformers/models/llama/convert_llama_weights_to_hf.py).
# Code that calls the fused projection `wqkv` pairs in both ways.
PAIRED, HALVED = frozenset({"wq", "wk", "wqkv"}), frozenset({"q_proj", "k_proj"})

# What FSDP calls its flattened parameters (torch.distributed.fsdp, and fairscale before it).
FLATTENED = frozenset({"_flat_param", "flat_param", "flat_param_0", "_flat_param_0"})
# Tensors of packings that are not decoded, by the last segment of their names: GPTQ and AWQ, compressed-tensors, HQQ, AQLM,
# QuIP#, and torch's own quantised modules.
PACKED_ROLES = frozenset({
    "qweight", "qzeros", "weight_packed", "W_q", "codebooks", "Qidxs", "_packed_params", "packed_weight",
})  # fmt: skip
# What lists of names beside the weights are called: OpenMMLab's CLASSES, Ultralytics' names, transformers' id2label,
# torchtext's itos, ESPnet's token_list.
NAME_LISTS = frozenset({
    "classes", "class_names", "names", "labels", "label_names", "id2label", "categories", "vocab", "tokens", "itos",
    "token_list", "speakers",
})  # fmt: skip
