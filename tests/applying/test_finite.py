"""NaN and infinities are counted exactly, wherever they stand, by whichever way looks for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchgraft.applying.finite import COMPARABLE, Nonfinite, any_at_least, count_nonfinite, may_be_nonfinite
from torchgraft.core.dtypes import DType

KINDS = {DType.F32: np.float32, DType.F64: np.float64, DType.F16: np.float16}
SIZES = (1, 4095, 4097, 300_000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", KINDS)
def test_one_odd_value_is_found_at_either_end_and_between(dtype, size):
    values = np.random.default_rng(1).standard_normal(size).astype(KINDS[dtype])
    assert not count_nonfinite(values.view(np.uint8), dtype)
    for at in {0, size // 2, size - 1}:
        for odd, found in (
            (np.nan, Nonfinite(1, 0)),
            (-np.nan, Nonfinite(1, 0)),
            (np.inf, Nonfinite(0, 1)),
            (-np.inf, Nonfinite(0, 1)),
        ):
            before, values[at] = values[at], odd
            assert count_nonfinite(values.view(np.uint8), dtype) == found
            values[at] = before


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_great_values_are_finite_though_their_squares_are_not(dtype, size):
    values = np.full(size, np.finfo(KINDS[dtype]).max, KINDS[dtype])
    with np.errstate(all="raise"):
        assert not count_nonfinite(values.view(np.uint8), dtype)
    values[size // 2] = -np.inf
    assert count_nonfinite(values.view(np.uint8), dtype) == Nonfinite(0, 1)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_values_may_begin_anywhere_in_memory(shift):
    raw = np.zeros(shift + 4 * 300_000, np.uint8)
    values = raw[shift:].view(np.float32)
    values[123_456] = np.inf
    assert count_nonfinite(raw[shift:], DType.F32) == Nonfinite(0, 1)


@pytest.mark.parametrize("kind", [kind for kind in DType if kind.is_float and kind.itemsize == 1], ids=str)
def test_every_pattern_of_a_byte_is_what_torch_takes_it_for(kind):
    if not hasattr(torch, kind.label):
        pytest.skip("older versions of torch have no such type")
    raw = torch.arange(256, dtype=torch.uint8)
    values = raw.view(getattr(torch, kind.label)).float()
    found = Nonfinite(int(values.isnan().sum()), int(values.isinf().sum()))
    assert found
    assert may_be_nonfinite(kind)
    assert count_nonfinite(raw.numpy(), kind) == found
    assert not count_nonfinite(raw[values.isfinite()].numpy(), kind)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", COMPARABLE, ids=str)
def test_a_value_reaches_what_is_no_greater(dtype, sign):
    values = torch.full((999,), 0.5).to(getattr(torch, dtype.label))
    values[500] = sign * 448
    raw = values.view(torch.uint8).numpy()
    assert any_at_least(raw, dtype, 448)
    assert any_at_least(raw, dtype, 300)
    assert not any_at_least(raw, dtype, 512)
    assert not any_at_least(raw[:0], dtype, 1)
    values[500] = sign * float("inf")
    assert any_at_least(raw, dtype, 1e30)
    values[500] = float("nan")
    assert any_at_least(raw, dtype, 1e30)
