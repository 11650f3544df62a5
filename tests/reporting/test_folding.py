"""Folds are exact: expanded, they are the rows that they were made of."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reporting_plans import names

from torchgraft.reporting.folding import Row, braced_numbers, factor_names, fold

rows = st.lists(
    st.builds(
        Row,
        names,
        st.lists(st.lists(names, max_size=2).map(tuple), min_size=1, max_size=1).map(tuple),
        st.lists(st.sampled_from(["2 of 11", "layers.0 is 1", ""]), min_size=1, max_size=1).map(tuple),
        st.sampled_from([None, (2,), (3, 4)]),
        st.integers(0, 1),
        st.integers(0, 5),
        weight=st.just(1),
    ),
    max_size=40,
    unique_by=lambda row: row.name,
)


@given(rows)
def test_folds_expand_to_their_rows(given_rows):
    folds = fold(given_rows)
    expanded = Counter(names for one in folds for names in one.expand())
    assert expanded == Counter((r.name, *r.related[0], *r.sentences) for r in given_rows)
    assert sum(one.count for one in folds) == len(given_rows)
    assert sum(one.numel for one in folds) == sum(r.numel for r in given_rows)


@given(rows)
def test_facts_and_shapes_are_never_mixed(given_rows):
    by_name = {}
    for row in given_rows:
        by_name.setdefault((row.name, *row.related[0], *row.sentences), set()).add((row.facts, row.shape))
    for one in fold(given_rows):
        for expanded in one.expand():
            assert any(facts == one.facts and shape in one.shapes for facts, shape in by_name[expanded])


@given(rows, st.randoms())
def test_order_of_rows_changes_nothing_but_the_order(given_rows, random):
    mixed = list(given_rows)
    random.shuffle(mixed)

    def told(folds):
        return Counter((one.count, one.facts, frozenset(one.expand())) for one in folds)

    assert told(fold(mixed)) == told(fold(given_rows))


def patterns(*given_rows):
    return [
        " <- ".join([one.pattern, *(factor_names(one.related(0)),) * bool(one.related(0))]) for one in fold(given_rows)
    ]


@pytest.mark.parametrize(
    ("given_rows", "expected"),
    [
        ([Row(f"layers.{n}.weight") for n in range(12)], ["layers.{0-11}.weight"]),
        ([Row(f"a.{n}.w") for n in (0, 2, 5)], ["a.{0,2,5}.w"]),
        ([Row("fc.weight", shape=(10, 8)), Row("fc.bias", shape=(10,))], ["fc.{weight,bias}"]),
        ([Row(f"a.{n}.w", ((f"b.{m}.w",),)) for n, m in ((0, 0), (1, 5), (2, 11))], ["a.{0-2}.w <- b.{0,5,11}.w"]),
        ([Row(f"a.{n}.w", (("shared.w",),)) for n in range(3)], ["a.{0-2}.w <- shared.w"]),
        (
            [Row(f"b.{n}.qkv.w", ((*(f"l.{n}.{p}_proj.w" for p in "qkv"),),)) for n in range(2)],
            ["b.{0,1}.qkv.w <- l.{0,1}.{q,k,v}_proj.w"],
        ),
        ([Row("n.gamma", (("m.weight",),)), Row("n.beta", (("m.bias",),))], ["n.{gamma,beta} <- m.{weight,bias}"]),
        ([Row(f"l{a}.{b}.w") for a, n in ((1, 2), (2, 3), (3, 2)) for b in range(n)], ["l{1,3}.{0,1}.w", "l2.{0-2}.w"]),
        ([Row("a.01.w"), Row("a.1.w"), Row("a.2.w")], ["a.01.w", "a.{1,2}.w"]),
        ([Row("a.0.w", facts="x"), Row("a.1.w", facts="y")], ["a.0.w", "a.1.w"]),
        ([Row("a.0.w", shape=(1,)), Row("a.1.w", shape=(2,))], ["a.0.w", "a.1.w"]),
        (
            [Row(f"f.{2 * s + 1}.{b}.w", ((f"s.{s}.b.{b}.w",),)) for s, n in ((0, 2), (1, 2)) for b in range(n)],
            ["f.{1,3}.{0,1}.w <- s.{0,1}.b.{0,1}.w"],
        ),
    ],
)
def test_patterns(given_rows, expected):
    assert patterns(*given_rows) == expected


def test_sentences_fold_in_step():
    folds = fold(Row(f"b.{n}.w", sentences=(f"layers.{n + 1} stands where b.{n} does",)) for n in range(3))
    assert [one.sentences for one in folds] == [("layers.{1-3} stands where b.{0-2} does",)]


def test_factored_keeps_whole_words():
    assert factor_names(["a.query.w", "a.key.w"]) == "a.{query,key}.w"
    assert factor_names(["ab", "ac"]) == "ab + ac"
    assert factor_names(["one"]) == "one"


@pytest.mark.parametrize(
    ("names", "sentences"), [(["up.weight"] * 2, "2 × up.weight"), (["up.{weight,bias}"] * 3, "3 × up.{weight,bias}")]
)
def test_one_name_several_times_is_said_once(names, sentences):
    assert factor_names(names) == sentences


def test_long_lists_of_numbers_are_cut_short():
    assert braced_numbers([3, 3]) == "3"
    assert braced_numbers(range(0, 200, 2)).endswith("26,28,…,198}")


def test_a_hundred_thousand_names_take_linear_time():
    many = [
        Row(f"layers.{a}.experts.{b}.{n}.weight", shape=(4, 4))
        for a in range(40)
        for b in range(400)
        for n in ("up", "down")
    ]
    start = time.process_time()
    folds = fold(many)
    assert [one.pattern for one in folds] == [
        "layers.{0-39}.experts.{0-399}.up.weight",
        "layers.{0-39}.experts.{0-399}.down.weight",
    ]
    assert time.process_time() - start < 5


def test_dozens_of_numbers_in_a_name_take_linear_time():
    many = [Row(".".join(f"x{n * (place + 1) % 97}" for place in range(30)), numel=n) for n in range(97)]
    many += [Row(".".join(f"x{n * n * (place + 7) % 991}" for place in range(30))) for n in range(100, 9000)]
    start = time.process_time()
    assert sum(one.count for one in fold(many)) == len(many)
    assert time.process_time() - start < 4


def test_of_many_names_the_first_and_the_last_are_said():
    experts = [f"experts.{n}.w1.weight" for n in range(64)]
    assert factor_names(experts) == "experts.{0,1,2,3,4,…,63}.w1.weight"
    assert factor_names([f"{n}x{n}" for n in range(9)]).endswith(" + 4x4 + … + 8x8")
