"""Patterns of names: many at once mean what each of them does."""

from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.names import covering, covers, paths_of


@given(
    st.lists(
        st.sampled_from(("a", "a.0", "a.0.", "a.*", "a.*.w", "*.w", "a.1*", "b.w", "b?", "", ".", "*")), max_size=4
    ),
    st.sampled_from(("a", "a.0", "a.0.w", "a.1.w", "a.10.b", "ab.w", "b", "b.w", "b1.w", "w", "a.w.")),
)
def test_many_patterns_mean_what_each_of_them_does(patterns, name):
    assert covering(tuple(patterns))(name) == any(covers(pattern, name) for pattern in patterns)


def test_paths_are_names_and_the_modules_around_them():
    assert paths_of(["a.0.w", "b"]) == {"a.0.w", "a.0", "a", "b"}
