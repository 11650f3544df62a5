"""A box of what a step computes, made of boxes of its sources, is that box of the whole."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Feed, Step, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.ops import (
    Cast,
    Concat,
    Index,
    InsertZeros,
    JoinRanks,
    Permute,
    Reshape,
    SelectRows,
    SliceDim,
    Stack,
    Transpose,
)
from torchgraft.spreading.boxes import Box
from torchgraft.spreading.share import part_of


def cut(value, box):
    for dim, (start, size) in enumerate(zip(box.starts, box.sizes, strict=True)):
        value = value.narrow(dim, start, size)
    return value


def run(feeds, ops):
    values = []
    for value, own in feeds:
        for op in own:
            value = op.run([value])  # noqa: PLW2901
        values.append(value)
    for op in ops:
        values = [op.run(values)]
    return values[0]


def made(step, sources):
    return run([(sources[f.key], f.ops) for f in step.feeds], step.ops)


def step_of(feeds, ops, sources):
    step = Step(slot=Slot(spec=TensorSpec("s", (), DType.F32)), feeds=tuple(feeds), ops=tuple(ops), why=Why("", ""))
    whole = made(step, sources)
    specs = {("", n): TensorSpec(n, tuple(v.shape), DType.of(str(v.dtype))) for n, v in sources.items()}
    return step, whole, specs


def agrees(step, whole, specs, sources, box):
    part = part_of(step, specs, box)
    assert part is not None
    mine = run([(cut(sources[p.feed.key], p.box), p.feed.ops) for p in part.feeds], part.ops)
    assert torch.equal(mine, cut(whole, box))
    return part


def sources(**shapes):
    return {
        n: torch.arange(math.prod(s), dtype=torch.float32).reshape(s) + 1000 * i
        for i, (n, s) in enumerate(shapes.items())
    }


QKV = {"q": (4, 6), "k": (2, 6), "v": (2, 6)}
CASES = {
    "copy": ({"w": (8, 6)}, [Feed("w")], []),
    "transpose": ({"w": (6, 8)}, [Feed("w", (Transpose(),))], []),
    "permute": ({"w": (2, 3, 6, 8)}, [Feed("w", (Permute((3, 2, 0, 1)),))], []),
    "fused": (QKV, [Feed(n) for n in "qkv"], [Concat(0)]),
    "fused along columns": ({"a": (8, 2), "b": (8, 4)}, [Feed("a"), Feed("b")], [Concat(1)]),
    "fused of turned ones": ({"q": (6, 4), "k": (6, 4)}, [Feed("q", (Transpose(),)), Feed("k", (Transpose(),))], [Concat(0)]),
    "rows of ranks": ({"a": (4, 6), "b": (4, 6)}, [Feed("a"), Feed("b")], [JoinRanks("rows")]),
    "columns of ranks": ({"a": (8, 3), "b": (8, 3)}, [Feed("a"), Feed("b")], [JoinRanks("columns")]),
    "split": ({"w": (24, 6)}, [Feed("w", (SliceDim(0, 8, 16, 24),))], []),
    "split and cast": ({"w": (24, 6)}, [Feed("w", (SliceDim(0, 8, 16, 24), Cast("float16")))], []),
    "expert": ({"w": (4, 8, 6)}, [Feed("w", (Index(0, 2),))], []),
    "experts": ({f"e{i}": (8, 6) for i in range(4)}, [Feed(f"e{i}") for i in range(4)], [Stack(0)]),
    "gate and up": ({f"e{i}": (3, 6) for i in range(4)}, [Feed(f"e{i}") for i in range(4)], [Concat(0), Reshape((2, 6, 6)), Permute((0, 2, 1))]),
    "rows": ({"w": (9, 6)}, [Feed("w", (SelectRows(0, (8, 1, 1, 0, 5, 4, 3, 7)),))], []),
    "flat": ({"w": (8, 2, 3)}, [Feed("w", (Reshape((8, 6)),))], []),
    "unflat": ({"w": (8, 6)}, [Feed("w", (Reshape((8, 2, 3)),))], []),
    "heads": ({"w": (8, 6)}, [Feed("w", (Reshape((2, 2, 2, 6)), Permute((0, 2, 1, 3)), Reshape((8, 6))))], []),
    "ones": ({"w": (1, 1, 8, 6)}, [Feed("w", (Reshape((8, 6)),))], []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parts", [2, 3])
def test_shards_along_any_dimension_are_made_of_parts(case, parts):
    shapes, feeds, ops = CASES[case]
    given = sources(**shapes)
    step, whole, specs = step_of(feeds, ops, given)
    for dim, size in enumerate(whole.shape):
        for at in range(parts):
            start, stop = at * size // parts, (at + 1) * size // parts
            if start < stop:
                agrees(step, whole, specs, given, Box.whole(tuple(whole.shape)).along(dim, start, stop - start))


def test_only_what_is_needed_is_taken():
    given = sources(**QKV)
    step, whole, specs = step_of([Feed(n) for n in "qkv"], [Concat(0)], given)
    part = agrees(step, whole, specs, given, Box((4, 0), (2, 6)))
    assert [(p.feed.key, p.box.sizes) for p in part.feeds] == [("k", (2, 6))]
    assert part.ops == ()
    part = agrees(step, whole, specs, given, Box((3, 2), (2, 3)))
    assert [(p.feed.key, p.box.starts, p.box.sizes) for p in part.feeds] == [
        ("q", (3, 2), (1, 3)),
        ("k", (0, 2), (1, 3)),
    ]


def test_what_cannot_be_cut_is_left_to_be_made_whole():
    given = sources(w=(8, 6))
    step, _, specs = step_of([Feed("w", (InsertZeros(0, 4, 4),))], [], given)
    assert part_of(step, specs, Box((0, 0), (4, 6))) is None


@st.composite
def chains(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    ops, current = [], shape
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["permute", "slice", "reshape", "select", "index"]))
        dim = draw(st.integers(0, len(current) - 1))
        if kind == "permute":
            op = Permute(tuple(draw(st.permutations(range(len(current))))))
        elif kind == "slice":
            start = draw(st.integers(0, current[dim] - 1))
            op = SliceDim(dim, start, draw(st.integers(start + 1, current[dim])))
        elif kind == "reshape":
            n = math.prod(current)
            first = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
            op = Reshape((first, n // first))
        elif kind == "select":
            op = SelectRows(dim, tuple(draw(st.lists(st.integers(0, current[dim] - 1), min_size=1, max_size=4))))
        elif len(current) > 1:
            op = Index(dim, draw(st.integers(0, current[dim] - 1)))
        else:
            continue
        ops.append(op)
        current = op.out_spec([TensorSpec("", current, DType.F32)]).shape
    starts = tuple(draw(st.integers(0, n - 1)) for n in current)
    sizes = tuple(draw(st.integers(1, n - s)) for s, n in zip(starts, current, strict=True))
    return shape, ops, Box(starts, sizes)


@settings(max_examples=150, deadline=None)
@given(chains(), st.booleans())
def test_any_chain_of_moves_can_be_cut(chain, joined):
    shape, ops, box = chain
    given = sources(w=shape)
    feeds, after = ([Feed("w")], ops) if joined else ([Feed("w", tuple(ops))], [])
    step, whole, specs = step_of(feeds, after, given)
    agrees(step, whole, specs, given, box)
