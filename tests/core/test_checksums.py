"""A checksum of pieces in any order is that of the whole."""

from __future__ import annotations

import zlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.system.checksums import Pieces, combined, crc32


@given(st.binary(), st.binary())
def test_the_checksum_of_two_parts_is_that_of_both(first, second):
    assert combined(crc32(first, 0), crc32(second, 0), len(second)) == zlib.crc32(first + second)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_pieces_come_in_any_order_and_more_than_once(data, draw):
    ends = sorted({0, len(data), *draw.draw(st.lists(st.integers(0, len(data))))})
    cuts = list(pairwise(ends))
    again = draw.draw(st.lists(st.sampled_from(cuts)))
    pieces, found = Pieces(), None
    for start, stop in draw.draw(st.permutations(cuts + again)):
        found = pieces.add(start, stop, crc32(data[start:stop], 0))
    assert found == (len(data), zlib.crc32(data))


@given(st.binary(min_size=1, max_size=60), st.data())
def test_pieces_that_overlap_are_never_summed_up_twice(data, draw):
    pieces = Pieces()
    ranges = st.tuples(st.integers(0, len(data) - 1), st.integers(1, len(data))).filter(lambda r: r[0] < r[1])
    for start, stop in draw.draw(st.lists(ranges)):
        found = pieces.add(start, stop, crc32(data[start:stop], 0))
        assert found is None or found[1] == zlib.crc32(data[: found[0]])
    pieces.add(0, len(data), crc32(data, 0))
    assert pieces.add(0, len(data), crc32(data, 0)) == (len(data), zlib.crc32(data))


@given(st.binary(min_size=1, max_size=60), st.data())
def test_readers_of_parts_have_the_checksum_of_the_whole_together(data, draw):
    ends = sorted({0, len(data), *draw.draw(st.lists(st.integers(0, len(data))))})
    readers = [Pieces() for _ in range(3)]
    for start, stop in draw.draw(st.permutations(list(pairwise(ends)))):
        readers[draw.draw(st.integers(0, 2))].add(start, stop, crc32(data[start:stop], 0))
    parts = [pieces.partial(len(data)) for pieces in readers]
    assert sum(part.covered for part in parts) == len(data)
    assert parts[0].crc ^ parts[1].crc ^ parts[2].crc == zlib.crc32(data)
