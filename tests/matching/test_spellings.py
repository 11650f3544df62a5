"""Words whose meaning hangs on what stands beside them, and on numbers that are no counters."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import group
from torchgraft.matching.tables import dialect


def words_of(*paths):
    leaves = [Leaf(name=f"{path}.weight", shape=(4, 4), dtype=DType.F32, keys=(path,)) for path in paths]
    return {unit.path: unit.words[-1] for unit in group(leaves)}


def test_a_row_counted_from_zero_is_read_as_counted_from_one():
    assert words_of("a.bn0", "a.bn1") == {"a.bn0": "@1", "a.bn1": "@2"}


@pytest.mark.parametrize("name", ["dense", "conv2d", "net.batch_normalization"])
def test_the_first_of_a_row_may_have_no_number(name):
    found = words_of(name, f"{name}_1", f"{name}_2")
    assert found == {name: "@1", f"{name}_1": "@2", f"{name}_2": "@3"}
    found = words_of(name, f"{name}_0", f"{name}_1")
    assert "@" not in found[name]
    found = words_of(name, f"{name}_2")
    assert "@" not in found[name]


@pytest.mark.parametrize("named", ["{0}/{1}", "{0}.{0}.{1}:0"])
@pytest.mark.parametrize("first", [0, 1])
def test_layers_that_keras_numbers_go_to_those_that_a_model_counts(first, named):
    """In its HDF5 files a layer has a group in a group of the same name."""
    names = ["conv2d", "conv2d_1", "conv2d_2", "dense", "dense_1", "dense_2"]
    shapes = {name: (3, 3, 4, 4) if "conv" in name else (4, 4) for name in names}
    file = {named.format(name, "kernel"): torch.randn(shape) for name, shape in shapes.items()}
    file |= {named.format(name, "bias"): torch.randn(4) for name in names}
    layers = {f"conv{first + at}": nn.Conv2d(4, 4, 3) for at in range(3)}
    layers |= {f"fc{first + at}": nn.Linear(4, 4) for at in range(3)}
    plan = tg.plan(nn.ModuleDict(layers), file)
    fed = [step.feeds[0].key for step in plan.steps if step.slot.name.endswith("bias")]
    assert fed == [named.format(name, "bias") for name in names]


@pytest.mark.parametrize("dot", ["/", "."])
def test_lists_of_transformers_in_tensorflow_are_lists(dot):
    """`layer_._1` is no module of its own: a list cut short keeps its first members."""

    def block(net):
        return nn.ModuleDict({"layer": nn.ModuleList(nn.ModuleDict({"a": nn.Linear(4, 4)}) for _ in range(net))})

    file = {
        f"bert{dot}layer_._{n}{dot}a{dot}{role}:0": torch.randn(4, 4)[: 4 if role == "kernel" else 1].squeeze(0)
        for n in range(3)
        for role in ("kernel", "bias")
    }
    plan = tg.plan(block(2), file)
    assert [step.feeds[0].key.split("_._")[1][0] for step in plan.steps] == ["0", "0", "1", "1"]


def test_a_zero_in_few_blocks_is_something_more():
    found = words_of("a.0.ln0", *(f"a.{block}.ln{number}" for block in range(3) for number in (1, 2)))
    assert [found[f"a.1.ln{number}"] for number in (1, 2)] == ["@1", "@2"]


def test_numbers_that_the_dialect_knows_are_no_counters():
    assert words_of("layer.ff.wi_0", "layer.ff.wi_1") == {"layer.ff.wi_0": "gate", "layer.ff.wi_1": "up"}


@pytest.mark.parametrize("spelled", ["w{}", "w_{}", "W{}"])
def test_w1_and_w2_are_gate_and_down_only_beside_w3(spelled):
    first, second, third = (f"ff.{spelled.format(n)}" for n in (1, 2, 3))
    assert words_of(first, second, third) == {first: "gate", second: "down", third: "up"}
    assert words_of(first, second) == {first: "@1", second: "@2"}


@pytest.mark.parametrize(
    "name", ["encoder_attn", "encoder_decoder_attn", "EncDecAttention", "src_attn", "cross_attention"]
)
def test_attention_to_the_encoder_has_one_word(name):
    [unit] = group([Leaf(name=f"{name}.q_proj.weight", shape=(4, 4), dtype=DType.F32, keys=("k",))])
    assert unit.words == ("cross", "q")


def test_norms_with_a_2_and_b_2_are_units_of_weight_and_bias():
    leaves = [Leaf(name=f"norm.{role}", shape=(4,), dtype=DType.F32, keys=(role,)) for role in ("a_2", "b_2")]
    [unit] = group(leaves)
    assert set(unit.leaves) == {"weight", "bias"}


@pytest.mark.parametrize(
    "spelled", ["W_Q", "w_qs", "W_query", "conv_q", "q_linear", "query_projection", "q_proj", "wq"]
)
def test_queries_have_one_word(spelled):
    [unit] = group([Leaf(name=f"attn.{spelled}.weight", shape=(4, 4), dtype=DType.F32, keys=("k",))])
    assert unit.words == ("attn", "q")


def test_members_of_a_list_are_projections_by_their_number():
    found = words_of(*(f"self_attn.linears.{number}" for number in range(4)))
    assert [found[f"self_attn.linears.{number}"] for number in range(4)] == ["q", "k", "v", "o"]
    found = words_of(*(f"self_attn.linears.{number}" for number in range(5)))
    assert "q" not in found.values()
    found = words_of("norm", *(f"linears.{number}" for number in range(4)))  # four heads of a model, of no attention
    assert "q" not in found.values()


def test_word_lists_hold_words_that_names_are_read_as():
    read = {
        *dialect.PARTS,
        *dialect.EITHER_END,
        *dialect.FROM_THE_LAST,
        *(word for one in dialect.EXCLUSIVE for word in one),
    }
    assert [word for word in read if canonical(word) != (word,)] == []
    assert dialect.EITHER_END > dialect.FROM_ANY_END
    spelled = {
        *dialect.IN_OTHER_TERMS,
        *dialect.MODULATING,
        *dialect.ANY_PLACE,
        *(word for two in dialect.OPPOSITES for word in two),
    }
    assert [word for word in spelled if words(word) != (word,)] == []


@pytest.mark.parametrize("name", ["a/b", "</x>", "blocks/0/kernel:0"])
def test_names_of_the_model_itself_are_not_read_anew(name):
    model = nn.Module()
    model.register_parameter(name, nn.Parameter(torch.zeros(4)))
    made = tg.plan(model, {name: torch.ones(4), "other": torch.ones(4)})
    assert made.by_slot[name].why.rule == Ground.SAME_NAME
    assert not made.refusals


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (["embedder"], ["model.embed_tokens"], ["tok"]),
        (["encoder.emb", "decoder.emb"], ["encoder.embed_tokens", "decoder.embed_tokens"], ["tok", "tok"]),
        (["emb", "embed_tokens"], ["embed_tokens"], ["embed", "tok"]),
        (["emb"], ["embed", "embed_tokens"], ["embed"]),
        (["emb"], ["embed"], ["embed"]),
    ],
)
def test_an_embedding_of_nothing_is_that_of_tokens_where_the_other_side_says_so(ours, theirs, said):
    sides = [
        [Leaf(name=f"{path}.weight", shape=(9, 4), dtype=DType.F32, keys=(path,)) for path in paths]
        for paths in (ours, theirs)
    ]
    assert [unit.words[-1] for unit in group(*sides)] == said


@pytest.mark.parametrize(("ours", "theirs"), [("img_projector", "visual_projection"), ("txt_proj", "text_projector")])
def test_images_and_texts_have_one_word(ours, theirs):
    assert canonical(ours) == canonical(theirs)
