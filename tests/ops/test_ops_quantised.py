import json
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_contract import OpContract, same_bits, spec, value

from torchgraft.core.errors import CorruptCheckpointError, UsageError
from torchgraft.ops import Dequant4bit, DequantBlocks


def spread(scale, block, shape):
    for dim, b in enumerate(block):
        scale = scale.repeat_interleave(b, dim).narrow(dim, 0, shape[dim])
    return scale


class TestDequantBlocks(OpContract):
    kind = DequantBlocks
    good: ClassVar[list] = [
        (DequantBlocks((4, 4)), [spec(8, 10, dtype="float8_e4m3fn"), spec(2, 3)]),
        (DequantBlocks((1, 6)), [spec(4, 6, dtype="int8"), spec(4)]),
        (DequantBlocks(), [spec(4, 6, dtype="float8_e5m2"), spec()]),
        (DequantBlocks((1, 4, 4)), [spec(2, 8, 5, dtype="uint8"), spec(2, 2, 2)]),
    ]
    bad: ClassVar[list] = [
        (DequantBlocks((4, 4)), [spec(8, 8), spec(2, 3)]),
        (DequantBlocks((4,)), [spec(8, 8), spec(2)]),
        (DequantBlocks(), [spec(8, 8), spec(8)]),
        (DequantBlocks((8, 8)), [spec(8, 8), spec(1, dtype="int8")]),
    ]

    @settings(max_examples=25, deadline=None)
    @given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 4), st.integers(1, 4)))
    def test_equals_scaling_every_element(self, shape, block):
        blocks = [-(-n // b) for n, b in zip(shape, block, strict=True)]
        weight, scale = value(spec(*shape, dtype="int8")), value(spec(*blocks))
        wide = spread(scale, block, shape)
        assert same_bits(DequantBlocks(block).run([weight, scale]), weight.float() * wide)

    def test_refuses_what_makes_no_sense(self):
        with pytest.raises(UsageError):
            DequantBlocks((0, 4))


def packed(shape, blocksize=8):
    """Return codes, absmax and map, and the weight that they stand for, computed the slow way."""
    n = torch.Size(shape).numel()
    g = torch.Generator().manual_seed(n)
    codes = torch.randint(0, 16, (n,), generator=g)
    quant_map = torch.rand(16, generator=g) * 2 - 1
    absmax = torch.rand(-(-n // blocksize), generator=g)
    weight = (quant_map[codes] * absmax.repeat_interleave(blocksize)[:n]).reshape(shape)
    even = torch.cat([codes, torch.zeros(n % 2, dtype=codes.dtype)]).reshape(-1, 2)
    return (even[:, 0] * 16 + even[:, 1]).to(torch.uint8).reshape(-1, 1), absmax, quant_map, weight


def state(**facts):
    data = json.dumps({"quant_type": "nf4", "blocksize": 8, "dtype": "float32", "shape": [3, 8]} | facts)
    return torch.tensor(list(data.encode()), dtype=torch.uint8)


BYTES = spec(12, 1, dtype="uint8")
PLAIN = Dequant4bit(shape=(3, 8), blocksize=8)


class TestDequant4bit(OpContract):
    kind = Dequant4bit
    good: ClassVar[list] = [
        (PLAIN, [BYTES, spec(3), spec(16)]),
        (PLAIN, [spec(6, dtype="bfloat16"), spec(3), spec(16)]),
    ]
    bad: ClassVar[list] = [
        (PLAIN, [spec(13, 1, dtype="uint8"), spec(3), spec(16)]),
        (PLAIN, [BYTES, spec(3), spec(15)]),
        (PLAIN, [BYTES, spec(3)]),
    ]

    @settings(max_examples=15, deadline=None)
    @given(st.tuples(st.integers(1, 5), st.integers(1, 9)), st.integers(1, 9))
    def test_equals_the_slow_way(self, shape, blocksize):
        *inputs, weight = packed(shape, blocksize)
        assert same_bits(Dequant4bit(shape=shape, blocksize=blocksize).run(inputs), weight)

    def test_the_quant_state_overrules_the_fields(self):
        *inputs, weight = packed((3, 8))
        assert same_bits(Dequant4bit(shape=(3, 8), blocksize=64).run([*inputs, state()]), weight)

    @pytest.mark.parametrize(
        ("broken", "text"),
        [
            (state(shape=[8, 3]), "shape is"),
            (state(blocksize=4), "3 block scales"),
            (state(blocksize=0), "impossible"),
            (state(blocksize=None), "impossible"),
            (state(shape="long"), "impossible"),
            (torch.tensor([1, 2, 3], dtype=torch.uint8), "no JSON"),
            (torch.tensor([255], dtype=torch.uint8), "no JSON"),
            (torch.tensor([91, 93], dtype=torch.uint8), "no JSON object"),
        ],
    )
    def test_a_broken_quant_state_is_named(self, broken, text):
        *inputs, _ = packed((3, 8))
        with pytest.raises(CorruptCheckpointError, match=text):
            PLAIN.run([*inputs, broken])

    def test_refuses_what_makes_no_sense(self):
        with pytest.raises(UsageError):
            Dequant4bit(shape=(3, 8), blocksize=0)
