"""Stacks of layers as names and shapes: kinds of layers in any order, experts inside, in one of several spellings."""

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from torchgraft.core.dtypes import DType
from torchgraft.core.specs import TensorSpec
from torchgraft.matching import Models, match
from torchgraft.surveying import target_from_specs

WIDTH, HIDDEN = 8, 12

# What each part of a layer is called: two spellings with words that the dialect knows, one without meaning.
SPELLINGS = {
    "llama": {
        "layers": "model.layers", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
        "o": "self_attn.o_proj", "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "gate": "gate_proj",
        "up": "up_proj", "down": "down_proj", "mlp": "mlp", "experts": "mlp.experts", "router": "mlp.gate",
        "tok": "model.embed_tokens", "norm": "model.norm", "head": "lm_head",
    },
    "meta": {
        "layers": "layers", "q": "attention.wq", "k": "attention.wk", "v": "attention.wv", "o": "attention.wo",
        "norm1": "attention_norm", "norm2": "ffn_norm", "gate": "w1", "up": "w3", "down": "w2", "mlp": "feed_forward",
        "experts": "feed_forward.experts", "router": "feed_forward.router", "tok": "tok_embeddings", "norm": "norm",
        "head": "output",
    },
    "odd": {
        "layers": "xa", "q": "ka.p", "k": "ka.r", "v": "ka.s", "o": "ka.t", "norm1": "na", "norm2": "nb", "gate": "ma",
        "up": "mb", "down": "mc", "mlp": "fa", "experts": "fa.ea", "router": "fa.ra", "tok": "ya", "norm": "za", "head": "zb",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Decoder:
    """`kinds` is one letter a layer: d(ense), m(ixture), n(orm left out), w(ide)."""

    kinds: str
    experts: int = 2
    spelling: str = "llama"
    first: int = 0
    bias: bool = False
    swapped: bool = False
    missing: frozenset = field(default_factory=frozenset)


def specs_of(decoder):
    say = SPELLINGS[decoder.spelling]
    found = {}

    def put(path, *shape):
        found[f"{path}.weight"] = shape
        if decoder.bias and len(shape) == 2:
            found[f"{path}.bias"] = shape[:1]

    put(say["tok"], 30, WIDTH)
    for number, kind in enumerate(decoder.kinds, decoder.first):
        _layer(put, f"{say['layers']}.{number}", kind, decoder, say)
    put(say["norm"], WIDTH)
    put(say["head"], 30, WIDTH)
    left = {name: shape for at, (name, shape) in enumerate(found.items()) if at not in decoder.missing}
    return {name: TensorSpec(name, shape, DType.F32) for name, shape in left.items()}


def _layer(put, path, kind, decoder, say):
    hidden = HIDDEN + 4 * (kind == "w")
    order = ("v", "q", "k") if decoder.swapped else ("q", "k", "v")
    for part in (*order, "o"):
        put(f"{path}.{say[part]}", WIDTH, WIDTH)
    put(f"{path}.{say['norm1']}", WIDTH)
    if kind != "n":
        put(f"{path}.{say['norm2']}", WIDTH)
    owners = [f"{path}.{say['mlp']}"]
    if kind == "m":
        put(f"{path}.{say['router']}", decoder.experts, WIDTH)
        owners = [f"{path}.{say['experts']}.{n}" for n in range(decoder.experts)]
    for owner in owners:
        put(f"{owner}.{say['gate']}", hidden, WIDTH)
        put(f"{owner}.{say['up']}", hidden, WIDTH)
        put(f"{owner}.{say['down']}", WIDTH, hidden)


def matched(source, target):
    """Return the matching of two decoders."""
    return match(specs_of(source), Models(target_from_specs(specs_of(target))))


stacks = st.one_of(
    st.integers(8, 14).map(lambda n: "d" * n),
    st.tuples(st.integers(0, 3), st.integers(7, 11)).map(lambda n: "d" * n[0] + "m" * n[1]),
    st.tuples(st.integers(4, 7)).map(lambda n: "dw" * n[0]),
    st.tuples(st.integers(0, 9), st.integers(1, 2), st.integers(0, 9)).map(
        lambda n: "d" * n[0] + "w" * n[1] + "d" * n[2]
    ),
    st.text("dnw", min_size=8, max_size=12),
)


CHANGES = ("nothing", "nothing", "nothing", "swapped", "missing", "first", "depth", "kinds")


@st.composite
def pairs(draw):
    """Return two decoders in two spellings that are equal, or nearly so."""
    kinds = draw(stacks)
    experts = draw(st.sampled_from((2, 9))) if "m" in kinds else 2
    ours, theirs = draw(st.permutations(sorted(SPELLINGS)))[:2]
    source = Decoder(kinds, experts, ours, bias=draw(st.booleans()))
    target = replace(source, spelling=theirs)
    change = draw(st.sampled_from(CHANGES))
    if change == "depth":
        target = replace(target, kinds=kinds[: len(kinds) - draw(st.integers(1, 3))])
    elif change == "first":
        target = replace(target, first=1)
    elif change == "swapped":
        target = replace(target, swapped=True)
    elif change == "missing":
        target = replace(target, missing=frozenset(draw(st.lists(st.integers(0, 60), min_size=1, max_size=2))))
    elif change == "kinds" and "m" not in kinds:  # with experts: see test_experts_turned_round_are_said_alike
        target = replace(target, kinds=kinds[::-1])
    return (source, target) if draw(st.booleans()) else (target, source)
