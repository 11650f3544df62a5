"""Patterns of names: many at once mean what each of them does."""

from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.names import covered, covering, covers

PATTERNS = ("a", "a.0", "a.0.", "a.*", "a.*.w", "*.w", "a.1*", "b.w", "b?", "", ".", "*")
NAMES = ("a", "a.0", "a.0.w", "a.1.w", "a.10.b", "ab.w", "b", "b.w", "b1.w", "w", "a.w.")


@given(st.lists(st.sampled_from(PATTERNS), max_size=4), st.sampled_from(NAMES))
def test_many_patterns_mean_what_each_of_them_does(patterns, name):
    assert covering(tuple(patterns))(name) == any(covers(pattern, name) for pattern in patterns)


@given(st.sampled_from(PATTERNS), st.lists(st.sampled_from(NAMES), max_size=4))
def test_a_pattern_means_any_of_many_names_if_it_means_one(pattern, names):
    assert covered(names)(pattern) == any(covers(pattern, name) for name in names)
