"""Patterns that stand for names: what they cover is these names and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.names import covers, patterns_of

segment = st.sampled_from(["0", "1", "12", "a", "b", "norm"])
name = st.lists(segment, min_size=1, max_size=4).map(".".join)


@given(st.lists(name, unique=True, max_size=8), st.sets(name, max_size=12))
def test_they_cover_the_names_and_nothing_else(names, rest):
    modules = {one for one in {*names, *rest} if any(other.startswith(f"{one}.") for other in {*names, *rest})}
    names, others = [one for one in names if one not in modules], rest - set(names) - modules
    found = patterns_of(names, others, most=8)
    assert bool(found) == bool(names)
    assert all(any(covers(pattern, one) for pattern in found) for one in names)
    assert not any(covers(pattern, other) for pattern in found for other in others)


@pytest.mark.parametrize(
    ("names", "others", "patterns"),
    [
        (["head.weight", "head.bias"], ["body.weight"], ["head"]),
        (
            ["blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"],
            ["blocks.0.attn.proj.weight"],
            ["blocks.*.attn.qkv.*"],
        ),
        (["0.mix.weight", "1.mix.weight"], ["0.mix.bias", "1.mix.bias"], ["*.mix.weight"]),
        (["0.weight", "2.weight"], ["1.weight"], ["0", "2"]),
        (["0.weight"], ["0.bias"], ["0.weight"]),
    ],
)
def test_the_widest_one_is_taken(names, others, patterns):
    assert patterns_of(names, others) == patterns


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("blocks.*.attn", "blocks.0.attn.qkv.weight", True),
        ("blocks.*.attn", "blocks.0.attn2.qkv.weight", False),
        ("blocks.*.attn", "blocks.0.mlp.fc1.weight", False),
        ("cv?.[02]", "cv3.0.weight", True),
        ("cv?.[02]", "cv3.1.weight", False),
        ("*.bias", "fc.bias", True),
        ("*.bias", "fc.bias_scale", False),
        ("*", "weight", True),
    ],
)
def test_a_glob_of_modules_stands_for_all_in_each_of_them(pattern, name, meant):
    assert covers(pattern, name) == meant


def test_there_are_few_or_none():
    names = [f"a{i}" for i in range(7)]
    assert patterns_of(names, ["b"]) == []
