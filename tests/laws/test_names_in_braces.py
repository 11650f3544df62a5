"""A list of names in braces stands for just these names."""

import re
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.formatting import folded, listed

segment = st.sampled_from(("a", "norm1", "0", "1", "2", "11", "w", "bias"))
names = st.lists(st.lists(segment, min_size=1, max_size=4).map(".".join), unique=True, max_size=12)


def expanded(pattern):
    """Return the names that a pattern stands for."""
    if "{" not in pattern:
        return pattern.split(", ")  # names without a dot are listed one by one
    choices = []
    for text, braces in re.findall(r"([^{}]+)|\{([^{}]*)\}", pattern):
        choices.append([text] if text else [n for part in braces.split(",") for n in _numbers(part)])
    return ["".join(parts) for parts in product(*choices)]


def _numbers(part):
    first, dash, last = part.partition("-")
    return [str(n) for n in range(int(first), int(last) + 1)] if dash else [part]


@given(names)
def test_patterns_multiply_out_to_the_names(given_names):
    patterns = folded(given_names)
    assert sorted(n for text, _ in patterns for n in expanded(text)) == sorted(given_names)
    assert all(len(expanded(text)) == count for text, count in patterns)


def test_layers_and_leaves_fold():
    layers = [f"blocks.{i}.norm.{leaf}" for i in (0, 1, 2, 5) for leaf in ("weight", "bias")]
    assert listed([*layers, "head.weight"]) == "blocks.{0-2,5}.norm.{weight,bias}, head.weight"


def test_numbers_that_are_no_product_stay_apart():
    assert listed(["a.0.0.w", "a.1.1.w"]) == "a.0.0.w, a.1.1.w"


def test_what_is_left_out_is_counted_in_names():
    assert listed([f"{letter}.{leaf}" for letter in "abc" for leaf in "wb"], 2) == "a.{w,b}, b.{w,b} and 2 more"


def test_control_characters_are_escaped():
    assert "\x1b" not in listed(["a\x1b[31m.w"])
