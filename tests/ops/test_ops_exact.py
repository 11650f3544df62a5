from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_contract import OpContract, same_bits, spec, value, values

from torchgraft.core.errors import UsageError
from torchgraft.ops import (
    Cast,
    Concat,
    Constant,
    Index,
    InsertZeros,
    JoinRanks,
    Literal,
    Permute,
    Reshape,
    SelectRows,
    SliceDim,
    Stack,
    Transpose,
)

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


class TestTranspose(OpContract):
    kind = Transpose
    good: ClassVar[list] = [(Transpose(), [spec(3, 4)]), (Transpose(), [spec(0, 4, dtype="bfloat16")])]
    bad: ClassVar[list] = [
        (Transpose(), [spec(3)]),
        (Transpose(), [spec(3, 4, 5)]),
        (Transpose(), [spec(3, 4), spec(3, 4)]),
        (Transpose(), []),
    ]


class TestPermute(OpContract):
    kind = Permute
    good: ClassVar[list] = [
        (Permute((2, 3, 1, 0)), [spec(2, 3, 4, 5)]),
        (Permute((0,)), [spec(2)]),
        (Permute((1, 2, 0)), [spec(2, 3, 4)]),
    ]
    bad: ClassVar[list] = [(Permute((1, 0)), [spec(2, 3, 4)])]

    @given(shapes, st.randoms(use_true_random=False))
    def test_any_order_comes_back(self, shape, random):
        dims = list(range(len(shape)))
        random.shuffle(dims)
        op, v = Permute(tuple(dims)), value(spec(*shape))
        assert same_bits(op.inverse([spec(*shape)])[0].run([op.run([v])]), v)

    @pytest.mark.parametrize("dims", [(0, 0), (1, 2), (-1, 0)])
    def test_refuses_what_is_no_order(self, dims):
        with pytest.raises(UsageError, match="no order"):
            Permute(dims)


class TestReshape(OpContract):
    kind = Reshape
    good: ClassVar[list] = [
        (Reshape((8, 4, 3, 3)), [spec(8, 36)]),
        (Reshape(()), [spec(1)]),
        (Reshape((0, 7)), [spec(3, 0)]),
    ]
    bad: ClassVar[list] = [(Reshape((3, 8)), [spec(4, 5)]), (Reshape((-1,)), [spec(4)])]


class TestSliceDim(OpContract):
    kind = SliceDim
    good: ClassVar[list] = [
        (SliceDim(0, 2, 4), [spec(6, 3)]),
        (SliceDim(1, 0, 0, 3), [spec(6, 3)]),
        (SliceDim(0, 768, 1536, 2304), [spec(2304)]),
    ]
    bad: ClassVar[list] = [
        (SliceDim(0, 2, 7), [spec(6, 3)]),
        (SliceDim(2, 0, 1), [spec(6, 3)]),
        (SliceDim(0, 0, 2, 5), [spec(6)]),
        (SliceDim(-1, 0, 1), [spec(2)]),
    ]

    def test_words(self):
        assert SliceDim(0, 768, 1536, 2304).describe() == "rows 768:1536 of 2304"


class TestSelectRows(OpContract):
    kind = SelectRows
    good: ClassVar[list] = [
        (SelectRows(0, (2, 0, 1)), [spec(3, 2)]),
        (SelectRows(1, (0, *range(2, 18))), [spec(1, 18, 4)]),
        (SelectRows(0, (1, 1)), [spec(3)]),
    ]
    bad: ClassVar[list] = [
        (SelectRows(0, (3,)), [spec(3, 2)]),
        (SelectRows(1, (0,)), [spec(3)]),
        (SelectRows(0, (-1,)), [spec(3)]),
    ]

    def test_words(self):
        assert SelectRows(1, (0, *range(2, 18))).describe() == "dim 1 0, 2-17"
        assert SelectRows(0, (5, 3, 9, 7, 1)).describe() == "rows 5, 3, 9, 7, … (5 in all)"

    def test_has_no_inverse_when_rows_are_lost(self):
        with pytest.raises(UsageError, match="no permutation"):
            SelectRows(0, (0, 0)).inverse([spec(2)])


class TestIndex(OpContract):
    kind = Index
    good: ClassVar[list] = [(Index(0, 1), [spec(2, 3)]), (Index(1, 2), [spec(2, 3, 4)])]
    bad: ClassVar[list] = [(Index(0, 2), [spec(2, 3)]), (Index(2, 0), [spec(2, 3)])]


class TestCast(OpContract):
    kind = Cast
    good: ClassVar[list] = [
        (Cast("float16"), [spec(3)]),
        (Cast("float32"), [spec(3, dtype="bfloat16")]),
        (Cast("int64"), [spec(3, dtype="int32")]),
        (Cast("float8_e4m3fn"), [spec(2)]),
    ]
    bad: ClassVar[list] = [(Cast("float16"), [spec(3), spec(2)])]

    def test_only_a_wide_enough_type_comes_back(self):
        assert Cast("float32").inverse([spec(2, dtype="float16")]) == (Cast("float16"),)
        with pytest.raises(UsageError, match="can't hold"):
            Cast("float16").inverse([spec(2, dtype="bfloat16")])

    def test_refuses_an_unknown_type(self):
        with pytest.raises(UsageError, match="float12"):
            Cast("float12")


class TestConcat(OpContract):
    kind = Concat
    good: ClassVar[list] = [(Concat(0), [spec(2, 3), spec(4, 3), spec(0, 3)]), (Concat(1), [spec(2, 1), spec(2, 3)])]
    bad: ClassVar[list] = [
        (Concat(0), [spec(2, 3), spec(2, 4)]),
        (Concat(2), [spec(2, 3)]),
        (Concat(0), []),
        (Concat(0), [spec(2), spec(2, dtype="float16")]),
        (Concat(0), [spec(2), spec(2, 1)]),
    ]

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 2))
    def test_every_part_comes_back(self, sizes, dim):
        specs = [spec(*[n if d == dim else 2 for d in range(3)]) for n in sizes]
        op, parts = Concat(dim), values(specs)
        out = op.run(parts)
        assert all(same_bits(back.run([out]), p) for back, p in zip(op.inverse(specs), parts, strict=True))


class TestStack(OpContract):
    kind = Stack
    good: ClassVar[list] = [(Stack(0), [spec(2, 3)] * 4), (Stack(2), [spec(2, 3)] * 2)]
    bad: ClassVar[list] = [(Stack(0), [spec(2), spec(3)]), (Stack(3), [spec(2, 3)]), (Stack(0), [])]


class TestJoinRanks(OpContract):
    kind = JoinRanks
    good: ClassVar[list] = [
        (JoinRanks("rows"), [spec(2, 3), spec(2, 3)]),
        (JoinRanks("columns"), [spec(2, 3), spec(2, 3)]),
        (JoinRanks("parts", (1, 1, 1)), [spec(6, 4)] * 2),
        (JoinRanks("parts", (4, 1, 1)), [spec(12, 4)] * 3),
    ]
    bad: ClassVar[list] = [
        (JoinRanks("columns"), [spec(2), spec(2)]),
        (JoinRanks("parts", (1, 1, 1)), [spec(4, 4)] * 2),
        (JoinRanks("parts", (1, 1)), [spec(4), spec(2)]),
    ]

    @given(st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 2))
    def test_equals_joining_part_by_part(self, ranks, parts, unit):
        whole = [torch.rand(p * unit * ranks, 2) for p in parts]
        shares = [torch.cat([w.chunk(ranks)[r] for w in whole]) for r in range(ranks)]
        assert same_bits(JoinRanks("parts", tuple(parts)).run(shares), torch.cat(whole))

    @pytest.mark.parametrize(("kind", "parts"), [("diagonal", ()), ("parts", ()), ("rows", (1, 1)), ("parts", (0, 1))])
    def test_refuses_what_makes_no_sense(self, kind, parts):
        with pytest.raises(UsageError):
            JoinRanks(kind, parts)


class TestConstant(OpContract):
    kind = Constant
    good: ClassVar[list] = [
        (Constant((2, 3), "bfloat16", 0), []),
        (Constant((), "int64", 7), []),
        (Constant((2,), "bool", 1), []),
        (Constant((4,), "float8_e4m3fn", 0.5), []),
    ]
    bad: ClassVar[list] = [(Constant((2,), "float32", 0), [spec(2)])]

    def test_words(self):
        assert [Constant((2,), "float32", v).describe() for v in (0.0, 1.0, 0.5)] == ["zeros", "ones", "constant 0.5"]


class TestLiteral(OpContract):
    kind = Literal
    good: ClassVar[list] = [
        (Literal((2, 2), "float32", (0.5, 1, -2, 3)), []),
        (Literal((), "int64", (7,)), []),
        (Literal((3,), "bool", (1, 0, 1)), []),
        (Literal((0,), "float16", ()), []),
    ]
    bad: ClassVar[list] = [(Literal((2,), "float32", (0, 1)), [spec(2)])]

    @pytest.mark.parametrize(("values", "text"), [((1.0,), "1 values don't fill"), ((0.5, 1.0), "whole numbers")])
    def test_refuses_values_that_the_tensor_cannot_hold(self, values, text):
        with pytest.raises(UsageError, match=text):
            Literal((2,), "int64", values)


class TestInsertZeros(OpContract):
    kind = InsertZeros
    good: ClassVar[list] = [
        (InsertZeros(0, 4, 4), [spec(8)]),
        (InsertZeros(1, 0, 2), [spec(2, 3)]),
        (InsertZeros(0, 8, 1), [spec(8, dtype="float16")]),
    ]
    bad: ClassVar[list] = [
        (InsertZeros(0, 9, 1), [spec(8)]),
        (InsertZeros(1, 0, 1), [spec(8)]),
        (InsertZeros(0, 0, -1), [spec(8)]),
    ]

    def test_puts_the_missing_key_bias_between_query_and_value(self):
        q, v = torch.rand(4), torch.rand(4)
        assert same_bits(InsertZeros(0, 4, 4).run([Concat(0).run([q, v])]), torch.cat([q, torch.zeros(4), v]))
