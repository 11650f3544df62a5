"""Words whose meaning hangs on what stands beside them, and on numbers that are no counters."""

import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.parts.units import group


def words_of(*paths):
    leaves = [Leaf(name=f"{path}.weight", shape=(4, 4), dtype=DType.F32, keys=(path,)) for path in paths]
    return {unit.path: unit.words[-1] for unit in group(leaves)}


def test_a_row_counted_from_zero_is_read_as_counted_from_one():
    assert words_of("a.bn0", "a.bn1") == {"a.bn0": "@1", "a.bn1": "@2"}


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
