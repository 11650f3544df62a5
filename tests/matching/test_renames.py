"""Many rules for names are what each of them is, one by one, and take no longer for each name."""

from hypothesis import given
from hypothesis import strategies as st

from torchgraft.matching.names.patterns import compiled, filled
from torchgraft.matching.names.renames import Renames

SEGMENTS = ("a", "b", "{i}", "{x}", "a{i}", "1", "a1", "{}", "")
PATHS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(".".join)


def fits(said):
    fields = [part for part in ("{i}", "{x}") if part in said]
    return "{}" not in said and all(said.count(part) == 1 for part in fields)


def one_by_one(rename, key):
    for said, to in rename.items():
        if found := compiled(said).match(key):
            new, rest = filled(to, found.groupdict()), key[found.end() :]
            return new + rest if new else rest.removeprefix(".")
    return key


@given(st.dictionaries(PATHS.filter(fits), st.sampled_from(("c", "c.", "")), max_size=6), st.lists(PATHS, max_size=4))
def test_rules_are_found_as_if_each_was_tried(rename, keys):
    renames = Renames(rename)
    assert [renames.name_of(key) for key in keys] == [one_by_one(rename, key) for key in keys]
    assert renames.idle(keys) == {said for said in rename if not any(compiled(said).match(key) for key in keys)}


def test_a_name_that_fields_and_words_mean_is_one_way_through_the_tree():
    fields = [f"{{x{at}}}" for at in range(40)]
    rename = {".".join((*fields[:at], "a", *fields[at + 1 :])): f"c{at}" for at in range(40)}
    assert Renames(rename).name_of(".".join("a" * 40)) == "c0"
    assert Renames(rename).name_of(".".join("b" * 40)) == ".".join("b" * 40)
