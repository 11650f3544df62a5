"""Buffers without knowledge of their own: models work them out from their configuration, or count with them.

Nobody needs to hear that such a tensor stays as the model made it, or that one of the file is left out: under another
window, length or head size it must be another one. Names as in torch, torchvision, timm, transformers, the code of
Swin, BEiT and Llama, and averaging utilities.
"""

from __future__ import annotations

from torchgraft.core.specs import TensorSpec

COUNTERS = ("num_batches_tracked", "num_updates", "n_averaged", "decay")
INDICES = ("position_ids", "token_type_ids", "relative_position_index", "rel_pos_index", "relative_coords_table")
MASKS = ("attn_mask", "causal_mask", "masked_bias")
# Rotary embeddings: frequencies (of these only, other values mean another function), and tables worked out from them.
FREQUENCIES = ("inv_freq", "original_inv_freq")
ROTARY = ("cos_cached", "sin_cached", "cos_cache", "sin_cache", "cos_sin_cache", "freqs_cis", "freqs_cos", "freqs_sin")
OTHERS = ("__extra_state__", "_extra_state", "dummy_tensor")
DERIVED_ROLES = frozenset((*COUNTERS, *INDICES, *MASKS, *FREQUENCIES, *ROTARY, *OTHERS))


def is_derived(spec: TensorSpec) -> bool:
    """Whether nobody needs to hear about the tensor: one of these roles, a causal mask, an empty tensor."""
    role = spec.name.rpartition(".")[2]
    mask = role == "bias" and len(spec.shape) == 4 and spec.shape[:2] == (1, 1) and spec.shape[2] == spec.shape[3]
    return role in DERIVED_ROLES or mask or spec.numel == 0
