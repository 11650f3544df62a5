from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_contract import OpContract, same_bits, spec, value
from timm.layers import (
    resample_abs_pos_embed,
    resample_abs_pos_embed_nhwc,
    resample_patch_embed,
    resize_rel_pos_bias_table_simple,
)
from torchvision.models.vision_transformer import interpolate_embeddings

from torchgraft.core.errors import UsageError
from torchgraft.ops import Resample1d, ResampleBiasTable, ResampleGrid, ResamplePatch

side = st.integers(1, 6)


class TestResampleGrid(OpContract):
    kind = ResampleGrid
    good: ClassVar[list] = [
        (ResampleGrid((3, 4), (5, 2), 2, (0,)), [spec(1, 14, 6)]),
        (ResampleGrid((3, 3), (2, 2), antialias=False), [spec(9, 6, dtype="bfloat16")]),
        (ResampleGrid((3, 3), (3, 3), 2, (1, 0)), [spec(2, 11, 6)]),
        (ResampleGrid((3, 4), (5, 5)), [spec(12, 6, dtype="float64")]),
    ]
    bad: ClassVar[list] = [
        (ResampleGrid((3, 4), (5, 2), 1, (0,)), [spec(1, 14, 6)]),
        (ResampleGrid((2, 2), (3, 3)), [spec(1, 4, 6, dtype="int64")]),
        (ResampleGrid((2, 2), (3, 3)), [spec(4)]),
    ]

    @settings(max_examples=25, deadline=None)
    @given(side, side, side, side, st.integers(0, 2))
    def test_agrees_with_timm(self, h, w, th, tw, prefix):
        v = value(spec(1, prefix + h * w, 4))
        want = resample_abs_pos_embed(v, [th, tw], [h, w], num_prefix_tokens=prefix)
        got = ResampleGrid((h, w), (th, tw), prefix, tuple(range(prefix))).run([v])
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
        assert same_bits(got[:, :prefix], v[:, :prefix])

    def test_agrees_with_timm_on_grids_with_channels_last(self):
        v = value(spec(1, 4, 3, 5))
        want = resample_abs_pos_embed_nhwc(v, [6, 7])
        got = ResampleGrid((4, 3), (6, 7)).run([v.flatten(1, 2)])
        torch.testing.assert_close(got, want.flatten(1, 2), rtol=0, atol=1e-6)

    def test_agrees_with_torchvision_when_corners_are_aligned(self):
        v = value(spec(1, 17, 8))
        want = interpolate_embeddings(96, 16, {"encoder.pos_embedding": v}, "bicubic")["encoder.pos_embedding"]
        op = ResampleGrid((4, 4), (6, 6), 1, (0,), antialias=False, align_corners=True)
        torch.testing.assert_close(op.run([v]), want, rtol=0, atol=1e-6)

    def test_a_grid_one_column_wide_equals_the_same_grid_on_its_side(self):
        v = value(spec(1, 6, 1))  # one channel: torch itself gets this case wrong
        upright = ResampleGrid((3, 2), (5, 1)).run([v])
        lying = ResampleGrid((2, 3), (1, 5)).run([v.reshape(1, 3, 2, 1).transpose(1, 2).reshape(1, 6, 1)])
        torch.testing.assert_close(upright, lying, rtol=0, atol=1e-6)
        assert upright.std() > 0.01

    def test_words(self):
        assert ResampleGrid((14, 14), (16, 16), 1, (0,), antialias=False).describe() == (
            "position grid 14x14 -> 16x16 bicubic, 1 prefix row kept"
        )
        assert ResampleGrid((14, 14), (14, 14), 2, (0,)).describe() == (
            "position grid 14x14 as it is, 1 of 2 prefix rows kept"
        )

    @pytest.mark.parametrize(
        "fields",
        [
            {"source_grid": (4,)},
            {"target_grid": (0, 2)},
            {"prefix_rows": (1,), "prefix_source": 1},
            {"prefix_source": -1},
        ],
    )
    def test_refuses_what_makes_no_sense(self, fields):
        with pytest.raises(UsageError):
            ResampleGrid(**({"source_grid": (2, 2), "target_grid": (3, 3)} | fields))


class TestResample1d(OpContract):
    kind = Resample1d
    good: ClassVar[list] = [(Resample1d(27), [spec(13, 4)]), (Resample1d(5), [spec(10, 4, dtype="float16")])]
    bad: ClassVar[list] = [(Resample1d(27), [spec(1, 13, 4)]), (Resample1d(27), [spec(0, 4)])]

    def test_agrees_with_segment_anything(self):
        from transformers.models.sam.modeling_sam import SamVisionAttention

        v = value(spec(13, 4))
        want = SamVisionAttention.get_rel_pos(None, 14, 14, v)
        got = Resample1d(27).run([v])
        relative = (torch.arange(14)[:, None] - torch.arange(14)[None, :]) + 13
        torch.testing.assert_close(got[relative], want, rtol=0, atol=1e-6)

    def test_words(self):
        assert Resample1d(27).describe() == "positions -> 27 linear"

    def test_refuses_what_makes_no_sense(self):
        with pytest.raises(UsageError):
            Resample1d(0)


class TestResamplePatch(OpContract):
    kind = ResamplePatch
    good: ClassVar[list] = [
        (ResamplePatch((4, 4)), [spec(5, 3, 8, 8)]),
        (ResamplePatch((3, 6), source=(4, 4)), [spec(5, 3, 4, 4, dtype="float16")]),
        (ResamplePatch((4, 4)), [spec(5, 3, 4, 4)]),
    ]
    bad: ClassVar[list] = [
        (ResamplePatch((4, 4), source=(8, 8)), [spec(5, 3, 7, 7)]),
        (ResamplePatch((4, 4)), [spec(5, 3, 2, 7, 7)]),
    ]

    @settings(max_examples=15, deadline=None)
    @given(st.integers(2, 7), st.integers(2, 7), st.integers(2, 7), st.integers(2, 7))
    def test_agrees_with_timm(self, h, w, th, tw):
        v = value(spec(4, 3, h, w))
        want = resample_patch_embed(v, [th, tw])
        torch.testing.assert_close(ResamplePatch((th, tw)).run([v]), want, rtol=1e-4, atol=1e-5)

    def test_refuses_what_is_no_size(self):
        with pytest.raises(UsageError, match="no height and width"):
            ResamplePatch((4,))


class TestResampleBiasTable(OpContract):
    kind = ResampleBiasTable
    good: ClassVar[list] = [
        (ResampleBiasTable((3, 3), (5, 4)), [spec(25, 2)]),
        (ResampleBiasTable((3, 3), (3, 3), 3), [spec(28, 2)]),
        (ResampleBiasTable((4, 4), (6, 6), 3), [spec(52, 2, dtype="float16")]),
    ]
    bad: ClassVar[list] = [
        (ResampleBiasTable((3, 3), (5, 5)), [spec(28, 2)]),
        (ResampleBiasTable((3, 3), (5, 5), 3), [spec(2, 5, 5)]),
    ]

    @settings(max_examples=15, deadline=None)
    @given(st.integers(2, 7), st.integers(2, 8), st.sampled_from([0, 3]))
    def test_agrees_with_timm(self, source, target, extra):
        v = value(spec((2 * source - 1) ** 2 + extra, 3))
        window, shape = (target, target), ((2 * target - 1) ** 2 + extra, 3)
        want = resize_rel_pos_bias_table_simple(v, window, shape)
        got = ResampleBiasTable((source, source), window, extra).run([v])
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5)
        assert same_bits(got[len(got) - extra :], v[len(v) - extra :])

    def test_words(self):
        assert ResampleBiasTable((7, 7), (12, 12), 3).describe() == (
            "bias table of window 7x7 -> 12x12 bicubic, 3 extra rows kept"
        )

    @pytest.mark.parametrize("fields", [{"source_window": (3,)}, {"extra": -1}])
    def test_refuses_what_makes_no_sense(self, fields):
        with pytest.raises(UsageError):
            ResampleBiasTable(**({"source_window": (3, 3), "target_window": (4, 4)} | fields))
