"""How libraries spell the same things: data, read by the matcher, with no rule for a particular model.

Sources of the spellings: state dicts of torchvision, timm, transformers, fairseq, open_clip, detectron2, nanoGPT,
ultralytics, lit-llama (`c_fc1` is the gate), NomicBERT (`fc11` is up, `fc12` the gate), timm's SwiGLU (`fc1_g` is the gate,
`fc1_x` up), TorchScale (`g_proj` is a gate), GPT-NeoX (`embed_out` is the head), HiFi-GAN (`ups`), RWKV-LM (`time_mix_r`:
receptance), The Annotated Transformer (norms with `a_2` and `b_2`), CLIP in transformers (`pre_layrnorm`) and ESM
(`emb_layer_norm_after` is its last norm), as their public code names them.
"""

from __future__ import annotations

# Segments that wrappers put around a model. They are removed as whole segments, and only if the result is a name of
# the other side: a real child may be called `module` or `model`.
WRAPPERS = (
    "module", "_orig_mod", "model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "state_dict",
    "net", "network", "backbone", "encoder", "base_model",
)  # fmt: skip

# Those of them that no code calls a module of its own: torch.compile, FSDP and activation checkpointing put them around any
# module, however deep.
ANYWHERE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

# By canonical words: the words, and phrases of words, that mean the same. Longer phrases win.
_SPELLINGS = {
    "norm": "layer norm, layernorm, batch norm, batchnorm, group norm, groupnorm, rmsnorm, bn, ln, gn, normalization, norms",
    "attn": "self attn, self attention, attention, attn self, msa, mha, attns, attentions",
    "cross": "cross attn, encoder attn, encoder decoder attn, enc dec attn, encdec attn, src attn, crossattention",
    "q": (
        "query, q proj, proj q, q lin, linear q, query proj, to q, wq, w q, w qs, w query, conv q, q linear, "
        "linear query, query projection, fc q"
    ),
    "k": (
        "key, k proj, proj k, k lin, linear k, key proj, to k, wk, w k, w ks, w key, conv k, k linear, "
        "linear keys, key projection, fc k"
    ),
    "v": (
        "value, v proj, proj v, v lin, linear v, value proj, to v, wv, w v, w vs, w value, conv v, v linear, "
        "linear values, value projection, fc v"
    ),
    "o": "out proj, out lin, linear out, to out, o proj, fc o, wo, w o, conv o, out projection",
    "attn o": (
        "attn proj, attn c proj, attn linear proj, attn output proj, attn output linear, attn final linear, "
        "attn output dense, attn dense, attn out"
    ),
    "q norm": "qn",
    "k norm": "kn",
    "attn norm @1": "attn output norm, attn norm, attn layer norm",
    "mlp norm @2": "ffn norm, mlp norm, pre mlp norm, pre feedforward norm",
    "mlp fc @1": (
        "intermediate dense, c fc, linear 1, lin 1, fc in, dense h to 4 h, h to 4 h, intermediate layer, pwconv 1, fc 1"
    ),
    "mlp fc @2": "output dense, mlp c proj, linear 2, lin 2, fc out, dense 4 h to h, 4 h to h, pwconv 2, fc 2",
    "norm @2": "output norm, norm after, after norm, post attn norm, post mlp norm",
    "qkv": "c attn, query key value",
    "gate": "c fc 1, wi 0, w 1, fc 1 g, fc 12, gate proj, g proj",
    "up": "c fc 2, wi 1, w 3, fc 1 x, fc 11, up proj",
    "down": "w 2, down proj",
    "mlp @1": "feed forward macaron, ff macaron",
    "norm @1": "norm before, before norm, input norm, pre norm, sa norm",
    "norm pre": "pre layrnorm",
    "final norm": "emb layer norm after",
    "pos": (
        "position embeddings, position embedding, positional embedding, pos embedding, pos embed, pos emb, "
        "embed positions, wpe, position embd"
    ),
    "tok": "word embeddings, token embedding, token embeddings, embed tokens, tok embeddings, wte, token embd",
    "segment": "token type embeddings, token types",
    "cls": "class token, class embedding, cls token",
    "dist": "distillation token, dist token, distillation",
    "register": "register tokens, reg token",
    "patch": "patch embed proj, patch embeddings projection, patch embedding, conv proj",
    "head": "classifier, heads, lm head, mlp head, linear head, class layers, embed out",
    "head fc": "last linear",
    "shortcut": "downsample, downsampling, identity conv",
    "block": "layers, layer, blocks, resblocks, h",
    "stage": "stages",
    "ls": "layer scale, gamma, lambda",
    "ls @1": "gamma 1, lambda 1, ls 1 gamma, layer scale 1, layer scale 1 lambda 1, attn scale, attn ls",
    "ls @2": "gamma 2, lambda 2, ls 2 gamma, layer scale 2, layer scale 2 lambda 1, mlp scale, mlp ls",
    "mlp": "feed forward, feedforward, ffn, mlps, ffns",
    "se": "squeeze excitation, squeeze excite",
    "visual": "vision model, vision tower, vision, image, img",
    "backward": "reverse, bwd",
    "forward": "fwd",
    "text": "text model, txt",
    "proj": "projection, projector",
    "conv": "convolution",
    "embed": "embeddings, embedding, embedder, emb",
    "encoder": "enc",
    "decoder": "dec",
    "weight ih": "w ih",
    "weight hh": "w hh",
    "bias ih": "b ih",
    "bias hh": "b hh",
    "dw": "dwconv, conv dw, depthwise",
    "upsample": "ups, upsampler, upsamplers",
    "r": "receptance",
    "logvar": "log var, log variance",
    "logstd": "log std, log sigma, logsigma",
}
PHRASES: dict[tuple[str, ...], tuple[str, ...]] = {
    tuple(phrase.split()): tuple(meant.split())
    for meant, phrases in _SPELLINGS.items()
    for phrase in phrases.split(", ")
}

# Of the lists of words below, PARTS, EXCLUSIVE and those of list ends hold canonical words, as `canonical` reads names; the
# others hold words as they are spelled, where what the dialect makes of them would say too much or too little.

# Words for the parts of a block, and of a network.
PARTS = frozenset({"attn", "mlp", "norm", "se", "shortcut", "patch", "pos", "tok", "head"})

# Words of which a name carries one: two names that carry different ones don't mean the same tensor.
EXCLUSIVE: tuple[frozenset[str], ...] = (
    frozenset({"q", "k", "v", "o", "qkv", "kv"}),
    frozenset({"gate", "up", "down"}),
    frozenset({"encoder", "decoder"}),
    frozenset({"attn", "cross"}),
    PARTS,
    frozenset({"cls", "dist", "register", "pos", "tok", "segment", "mask"}),
    frozenset({"student", "teacher"}),
    frozenset({"text", "visual"}),
    frozenset({"dw", "pw"}),
)

# Words of a name that say that a tensor holds, or a layer gives, a function of the value that it stands for, and which:
# `log_std` in Spinning Up and Stable-Baselines3, `A_log` in Mamba, `inv_freq`; `running_std` in batch renormalisation.
# Or that it is what something is multiplied with, or what is added to it: `gamma` and `beta`, `logit_scale` and `logit_bias`.
LOGARITHM, INVERSE, ROOT, SQUARE, LESS = "logarithm", "inverse", "root", "square", "difference"
FACTOR, SUMMAND = "factor", "summand"
IN_OTHER_TERMS = {
    **dict.fromkeys(("log", "logscale"), frozenset({LOGARITHM})),
    **dict.fromkeys(("inv", "inverse", "reciprocal"), frozenset({INVERSE})),
    **dict.fromkeys(("std", "stddev", "stdev", "stdv", "sigma"), frozenset({ROOT})),
    **dict.fromkeys(("var", "variance"), frozenset({SQUARE})),
    **dict.fromkeys(("logstd", "logsigma"), frozenset({LOGARITHM, ROOT})),
    **dict.fromkeys(("rstd", "invstd"), frozenset({INVERSE, ROOT})),
    "logvar": frozenset({LOGARITHM, SQUARE}),
    "minus": frozenset({LESS}),
    **dict.fromkeys(("weight", "gamma", "scale", "gain"), frozenset({FACTOR})),
    **dict.fromkeys(("bias", "beta", "shift", "offset", "loc"), frozenset({SUMMAND})),
}
# Of two such terms one side has the one, and the other the other: a word that only one side has says nothing by itself.
CONTRARY_TERMS = ((ROOT, SQUARE), (FACTOR, SUMMAND))

# Words of layers that make the scales and shifts of others from a condition: adaptive norms of DiT, FLUX and SD3, FiLM.
MODULATING = frozenset({"modulation", "mod", "ada", "film"})

# Words that say that a norm stands before a layer or a part of a block, and behind it.
BEFORE, AFTER = frozenset({"pre", "before"}), frozenset({"post", "after"})

# What the last norm of a network is called, and no other, as `ln_f`, `final_layer_norm` and `norm_out`: `fc_norm` stands behind
# a pool. Words that say so wherever it is registered, and those that may stand with them.
LAST = frozenset({"f", "final", "last", "out", "output"})
LAST_NORM = LAST | {"norm", "post"}
# The same of a norm in front of all blocks, behind the embedding or instead of one: `pre_layrnorm`, `norm_in`, `emb_norm`.
FIRST = frozenset({"pre", "in", "input", "embed", "first"})
FIRST_NORM = FIRST | {"norm", "@1"}

# Words of norms that stand elsewhere: in front of all blocks, or behind a pool.
OTHER_NORMS = frozenset({"pre", "fc", "pool", "pooler", "pooled"})

# What an attention's way back is called beside its query, key and value, in Flax, OpenAI's Whisper and latent diffusion.
BACK = frozenset({"out", "output", "proj_out"})

# Words for kinds of layers that shapes tell as well.
KINDS = frozenset({"conv", "linear", "lin", "fc", "dense"})

# What any linear layer may be called: such a name alone says nothing of what it is for.
ANY_LAYER = frozenset({"linear", "lin", "dense", "fc", "proj"})

# What says which layer it is, or where it stands, and nothing of its rows: kinds of layers, parts of a block and of a network,
# what holds them, sides and places. `conv_dw` and `dw_conv` are the same, `out_mu` and `mu_out`.
ANY_PLACE = ANY_LAYER | {
    "conv", "norm", "ln", "bn", "embed", "embedding", "embeddings", "emb",
    "attn", "attention", "self", "cross", "mlp", "ff", "ffn", "head", "heads", "encoder", "decoder",
    "layer", "layers", "block", "blocks", "net", "module",
    "in", "out", "input", "output", "to", "pre", "post", "first", "last", "final",
}  # fmt: skip

# Words of lists that libraries count from either end: from the coarsest map of a pyramid, or from the finest. DPT's
# `refinenet4` is `fusion_stage.layers.0` in transformers, latent diffusion's `up.3` is `up_blocks.0` in diffusers.
EITHER_END = frozenset({
    "up", "upsample", "upconv", "upconvs", "deconv", "decoder", "decode", "fpn", "neck", "fusion", "refinenet", "refine",
    "scratch", "pyramid", "lateral",
})  # fmt: skip
# Those of them that say what a list is for, and not from which end it is counted: both sides may have them, and count
# otherwise.
FROM_ANY_END = frozenset({"up", "upsample", "decoder", "decode"})
# Those whose highest number comes first when the model runs, as in MiDaS and DPT.
FROM_THE_LAST = frozenset({"refinenet"})

# Words for parts that do opposite things, with libraries of all kinds.
OPPOSITES = (
    ("encoder", "decoder"),
    ("forward", "backward"),
    ("left", "right"),
    ("global", "local"),
    ("source", "target"),
    ("actor", "critic"),
    ("generator", "discriminator"),
    ("student", "teacher"),
    ("online", "target"),
    ("text", "vision"),
    ("text", "visual"),
    ("text", "image"),
    ("q", "k"),
)

# By canonical role: what a module's own tensors are called. `scale`, `gamma`, `g` and `lambda1` (DINOv2 in transformers) are
# weights only beside a bias, or alone.
_ROLES = {
    "weight": ("weight", "kernel", "depthwise_kernel", "w", "a_2"),
    "bias": ("bias", "b", "beta", "offset", "b_2"),
    "mean": ("running_mean", "moving_mean", "mean"),
    "var": ("running_var", "moving_variance", "moving_var", "var"),
    "count": ("num_batches_tracked",),
}
ROLES = {role: meant for meant, roles in _ROLES.items() for role in roles}
WEIGHT_BESIDE_BIAS = frozenset({"gamma", "scale", "g", "lambda1"})
# How the weight and the bias of one layer end where they are no module but raw tensors of their owner: `fc_w` and `fc_b`.
RAW_PAIRS = (("_w", "_b"), ("_weight", "_bias"))

# The roles of which a norm with statistics has one.
VARIANCES = _ROLES["var"]
