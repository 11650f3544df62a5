"""Boxes of tensors are read byte for byte, and nothing else is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchgraft as tg
from torchgraft.spreading import slices
from torchgraft.spreading.boxes import Box
from torchgraft.spreading.slices import SlicedSource


class Counting:
    """A source that notes how many bytes are read."""

    def __init__(self, source):
        self._source = source
        self.read_bytes = 0

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read_into(self, network, key, buffer, start=0):
        self.read_bytes += len(buffer)
        self._source.read_into(network, key, buffer, start)


@st.composite
def boxes(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    starts = tuple(draw(st.integers(0, n - 1)) for n in shape)
    sizes = tuple(draw(st.integers(1, n - s)) for s, n in zip(starts, shape, strict=True))
    return shape, Box(starts, sizes)


@settings(max_examples=100, deadline=None)
@given(boxes(), st.sampled_from([torch.float32, torch.int8, torch.bfloat16]), st.sampled_from([0, 1024]), st.data())
def test_any_box_is_read_whole_and_in_pieces(found, dtype, short, data):
    shape, box = found
    value = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    wanted = value
    for dim, (start, size) in enumerate(zip(box.starts, box.sizes, strict=True)):
        wanted = wanted.narrow(dim, start, size)
    wanted = wanted.contiguous()
    raw = wanted.reshape(-1).view(torch.uint8).numpy().tobytes()
    with pytest.MonkeyPatch.context() as patch, tg.open_checkpoint({"w": value}) as source:
        patch.setattr(slices, "SHORT", short)
        patch.setattr(slices, "BAND", 16)
        part = SlicedSource(source)
        name = part.add("", "w", box)
        assert torch.equal(part.read("", name), wanted)
        start = data.draw(st.integers(0, len(raw) - 1))
        stop = data.draw(st.integers(start, len(raw)))
        piece = bytearray(stop - start)
        part.read_into("", name, memoryview(piece), start)
        assert bytes(piece) == raw[start:stop]


@pytest.mark.parametrize(
    ("box", "most"), [(Box((100, 0), (50, 512)), 50 * 2048), (Box((0, 256), (200, 256)), 200 * 1024), (Box((0, 0), (200, 1)), 200 * 2048)]
)  # fmt: skip
def test_no_more_is_read_than_the_box_or_its_rows(tmp_path, box, most):
    value = torch.randn(200, 512)
    tg.save(tmp_path / "w.safetensors", {"w": value})
    with tg.open_checkpoint(tmp_path / "w.safetensors") as source:
        counting = Counting(source)
        part = SlicedSource(counting)
        name = part.add("", "w", box)
        found = part.read("", name)
    assert torch.equal(found, value.narrow(0, box.starts[0], box.sizes[0]).narrow(1, box.starts[1], box.sizes[1]))
    assert counting.read_bytes <= most


def test_names_show_which_part_it_is():
    with tg.open_checkpoint({"w": torch.zeros(4, 6)}) as source:
        part = SlicedSource(source)
        assert part.add("", "w", Box((0, 2), (4, 2))) == "w[:, 2:4]"
        assert part.add("", "w", Box((0, 0), (4, 6))) == "w"
        assert {n.path: list(n.specs) for n in part.networks} == {"": ["w[:, 2:4]", "w"]}
        with pytest.raises(tg.UsageError, match="no part 'v'"):
            part.read("", "v")
