from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_contract import OpContract, same_bits, spec

from torchgraft.core.errors import UsageError
from torchgraft.ops import HeadsToParts, PartsToHeads, RotaryLayout


class TestHeadsToParts(OpContract):
    kind = HeadsToParts
    good: ClassVar[list] = [
        (HeadsToParts(groups=4, parts=(1, 1, 1)), [spec(24, 5)]),
        (HeadsToParts(groups=2, parts=(4, 1, 1)), [spec(24)]),
        (HeadsToParts(groups=6, parts=(1, 1), dim=1), [spec(3, 12, 2)]),
    ]
    bad: ClassVar[list] = [
        (HeadsToParts(groups=4, parts=(1, 1, 1)), [spec(25, 5)]),
        (HeadsToParts(groups=1, parts=(1,), dim=2), [spec(2, 2)]),
    ]

    @given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
    def test_equals_view_and_transpose(self, heads, parts, head_dim):
        w = torch.rand(heads * parts * head_dim, 2)
        want = w.view(heads, parts, head_dim, 2).transpose(0, 1).reshape(w.shape)
        assert same_bits(HeadsToParts(groups=heads, parts=(1,) * parts).run([w]), want)

    def test_groups_of_query_heads(self):
        w = torch.arange(2 * 6 * 2).float()
        groups = w.view(2, 6, 2)
        want = torch.cat([groups[:, :4].reshape(-1), groups[:, 4].reshape(-1), groups[:, 5].reshape(-1)])
        assert same_bits(HeadsToParts(groups=2, parts=(4, 1, 1)).run([w]), want)

    def test_interleaved_gate_and_up(self):
        w = torch.rand(8, 3)
        assert same_bits(HeadsToParts(groups=4, parts=(1, 1)).run([w]), torch.cat([w[0::2], w[1::2]]))

    @pytest.mark.parametrize(("groups", "parts"), [(0, (1,)), (2, ()), (2, (1, 0))])
    def test_refuses_what_makes_no_sense(self, groups, parts):
        with pytest.raises(UsageError, match="make no sense"):
            HeadsToParts(groups=groups, parts=parts)


class TestPartsToHeads(OpContract):
    kind = PartsToHeads
    good: ClassVar[list] = [
        (PartsToHeads(groups=4, parts=(1, 1, 1)), [spec(24, 5)]),
        (PartsToHeads(groups=2, parts=(4, 1, 1), dim=1), [spec(1, 24)]),
    ]
    bad: ClassVar[list] = [(PartsToHeads(groups=4, parts=(1, 1, 1)), [spec(6)])]


class TestRotaryLayout(OpContract):
    kind = RotaryLayout
    good: ClassVar[list] = [
        (RotaryLayout(heads=2, to="half"), [spec(12, 5)]),
        (RotaryLayout(heads=2, to="interleaved"), [spec(12)]),
        (RotaryLayout(heads=3, to="half", dim=1), [spec(2, 12)]),
    ]
    bad: ClassVar[list] = [
        (RotaryLayout(heads=2, to="half"), [spec(6)]),
        (RotaryLayout(heads=2, to="half", dim=1), [spec(4)]),
    ]

    @given(st.integers(1, 4), st.integers(1, 4))
    def test_equals_the_llama_conversion(self, heads, pairs):
        w = torch.rand(heads * pairs * 2, 3)
        want = w.view(heads, pairs, 2, 3).transpose(1, 2).reshape(w.shape)
        assert same_bits(RotaryLayout(heads=heads, to="half").run([w]), want)

    @pytest.mark.parametrize(("to", "heads"), [("pairs", 2), ("half", 0)])
    def test_refuses_what_makes_no_sense(self, to, heads):
        with pytest.raises(UsageError):
            RotaryLayout(heads=heads, to=to)
