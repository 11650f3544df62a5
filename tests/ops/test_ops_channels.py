from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_contract import OpContract, same_bits, spec, value
from timm.models import adapt_input_conv

from torchgraft.core.errors import UsageError
from torchgraft.ops import AdaptInputChannels, CropKernel, InflateKernel, MeanRows, PadKernel, PadRows


class TestAdaptInputChannels(OpContract):
    kind = AdaptInputChannels
    good: ClassVar[list] = [
        (AdaptInputChannels(1, "repeat"), [spec(4, 3, 5, 5)]),
        (AdaptInputChannels(5, "repeat"), [spec(4, 3, 5, 5, dtype="float16")]),
        (AdaptInputChannels(2, "sum"), [spec(4, 3, 5)]),
        (AdaptInputChannels(4, "mean"), [spec(4, 6, 2, 5, 5)]),
        (AdaptInputChannels(3, "zero"), [spec(4, 3)]),
        (AdaptInputChannels(5, "fill-mean"), [spec(4, 3, 5, 5)]),
        (AdaptInputChannels(4, "copy:2"), [spec(4, 3, 5, 5)]),
        (AdaptInputChannels(1, "copy:1"), [spec(4, 3, 5, 5)]),
    ]
    bad: ClassVar[list] = [
        (AdaptInputChannels(2, "zero"), [spec(4, 3, 5, 5)]),
        (AdaptInputChannels(2, "copy:1"), [spec(4, 3, 5, 5)]),
        (AdaptInputChannels(4, "copy:3"), [spec(4, 3, 5, 5)]),
        (AdaptInputChannels(1, "sum"), [spec(4)]),
        (AdaptInputChannels(1, "sum"), [spec(4, 3, dtype="int8")]),
    ]

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 8), st.integers(1, 4))
    def test_agrees_with_timm(self, target, source):
        v = value(spec(4, source, 3, 3))
        want = adapt_input_conv(target, v, base_chans=source)
        torch.testing.assert_close(AdaptInputChannels(target, "repeat").run([v]), want, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("target", [1, 2, 5])
    def test_the_sum_keeps_the_response_to_a_grey_image(self, target):
        v, grey = value(spec(4, 3, 3, 3)), torch.rand(2, 1, 6, 6)
        new = AdaptInputChannels(target, "sum").run([v])
        want = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), v)
        torch.testing.assert_close(torch.nn.functional.conv2d(grey.expand(-1, target, -1, -1), new), want)

    def test_old_channels_stay_exact_when_channels_are_added(self):
        v = value(spec(4, 3, 3, 3))
        added = {
            "zero": torch.zeros(4, 2, 3, 3),
            "fill-mean": v.mean(1, True).expand(-1, 2, -1, -1),
            "copy:1": v[:, [1, 1]],
        }
        for rule, more in added.items():
            got = AdaptInputChannels(5, rule).run([v])
            assert same_bits(got[:, :3], v)
            torch.testing.assert_close(got[:, 3:], more)
        assert same_bits(AdaptInputChannels(1, "copy:1").run([v]), v[:, 1:2])

    def test_words(self):
        assert AdaptInputChannels(1, "repeat").describe() == "input channels -> 1, summed"
        assert AdaptInputChannels(4, "copy:0").describe() == "input channels -> 4, new ones as channel 0"
        assert AdaptInputChannels(1, "copy:0").describe() == "input channels -> 1, channel 0 alone"

    @pytest.mark.parametrize(("target", "rule"), [(1, "magic"), (1, "copy"), (1, "copy:x"), (1, "sum:1"), (0, "sum")])
    def test_refuses_what_makes_no_sense(self, target, rule):
        with pytest.raises(UsageError):
            AdaptInputChannels(target, rule)


class TestInflateKernel(OpContract):
    kind = InflateKernel
    good: ClassVar[list] = [
        (InflateKernel((4, 3, 5, 2, 2)), [spec(4, 3, 2, 2)]),
        (InflateKernel((4, 3, 5, 2, 2)), [spec(4, 3, 2, 2, dtype="bfloat16")]),
    ]
    bad: ClassVar[list] = [
        (InflateKernel((4, 3, 5, 2, 2)), [spec(4, 3, 2, 3)]),
        (InflateKernel((4, 3, 5, 2, 2)), [spec(4, 3)]),
    ]

    def test_a_still_video_gives_what_the_image_gave(self):
        v, image = value(spec(4, 3, 3, 3)), torch.rand(1, 3, 6, 6)
        want = torch.nn.functional.conv2d(image, v)
        kernel = InflateKernel((4, 3, 3, 3, 3)).run([v])
        video = torch.nn.functional.conv3d(image[:, :, None].expand(-1, -1, 3, -1, -1), kernel)
        torch.testing.assert_close(video[:, :, 0], want)

    @pytest.mark.parametrize("target", [(4, 3, 2), (4, 3, 0, 2, 2)])
    def test_refuses_what_makes_no_sense(self, target):
        with pytest.raises(UsageError):
            InflateKernel(target)


class TestPadKernel(OpContract):
    kind = PadKernel
    good: ClassVar[list] = [
        (PadKernel(source=(1, 1), target=(3, 5)), [spec(4, 3, 1, 1)]),
        (PadKernel(source=(3,), target=(3,)), [spec(4, 3, 3, dtype="float16")]),
    ]
    bad: ClassVar[list] = [(PadKernel(source=(1, 1), target=(3, 3)), [spec(4, 3, 3, 3)])]

    def test_is_the_same_function_with_more_padding(self):
        v, image = value(spec(4, 3, 1, 1)), torch.rand(1, 3, 6, 6)
        padded = PadKernel(source=(1, 1), target=(3, 3)).run([v])
        conv = torch.nn.functional.conv2d
        torch.testing.assert_close(conv(image, padded, padding=1), conv(image, v))

    @pytest.mark.parametrize(("source", "target"), [((1, 1), (2, 2)), ((3, 3), (1, 1)), ((1,), (1, 1)), ((), ())])
    def test_refuses_what_has_no_middle(self, source, target):
        with pytest.raises(UsageError, match="no middle"):
            PadKernel(source=source, target=target)


class TestCropKernel(OpContract):
    kind = CropKernel
    good: ClassVar[list] = [(CropKernel(source=(5, 3), target=(3, 1)), [spec(4, 3, 5, 3)])]
    bad: ClassVar[list] = [(CropKernel(source=(5, 5), target=(3, 3)), [spec(4, 3, 7, 7)])]


class TestMeanRows(OpContract):
    kind = MeanRows
    good: ClassVar[list] = [
        (MeanRows(source=4, target=7), [spec(4, 3)]),
        (MeanRows(source=4, target=4, dim=1), [spec(2, 4, dtype="float16")]),
        (MeanRows(source=4, target=6, dim=1), [spec(2, 4, 3, dtype="float64")]),
    ]
    bad: ClassVar[list] = [
        (MeanRows(source=4, target=7), [spec(5, 3)]),
        (MeanRows(source=4, target=7, dim=1), [spec(4)]),
        (MeanRows(source=4, target=7), [spec(4, 3, dtype="int64")]),
    ]

    def test_new_rows_are_the_mean_of_the_others(self):
        v = value(spec(4, 3))
        got = MeanRows(source=4, target=6).run([v])
        torch.testing.assert_close(got[4:], v.mean(0, True).expand(2, 3))

    @pytest.mark.parametrize("fields", [{"target": 3}, {"source": 0}])
    def test_refuses_what_makes_no_sense(self, fields):
        with pytest.raises(UsageError):
            MeanRows(**({"source": 4, "target": 6} | fields))


class TestPadRows(OpContract):
    kind = PadRows
    good: ClassVar[list] = [
        (PadRows(source=4, target=7), [spec(4, 3)]),
        (PadRows(source=3, target=4, dim=1, value=-1), [spec(4, 3, dtype="int64")]),
    ]
    bad: ClassVar[list] = [(PadRows(source=4, target=7), [spec(5, 3)])]

    def test_new_rows_hold_the_value(self):
        assert PadRows(source=1, target=3, value=2.5).run([torch.zeros(1)]).tolist() == [0, 2.5, 2.5]
