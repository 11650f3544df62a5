import pytest

from torchgraft.thinning.runs import End, Runs, is_number, sizes_of, tree_of


def runs_of(*names, path=""):
    tree = tree_of(dict.fromkeys(names, "matrix"))
    runs = Runs(tree)
    for segment in path.split(".") if path else []:
        tree = tree[segment]
    return [(run.stem, run.numbers) for run in runs.of(tree)]


def numbered(count, start=0):
    return tuple(str(n) for n in range(start, start + count))


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a"), ("a.b.c.d", "a.b"), ("a.b", "a.b.c.d")])
def test_a_name_that_is_the_path_of_another_is_no_tree(names):
    assert tree_of(dict.fromkeys(names, 0)) is None


def test_names_of_thousands_of_segments_are_no_tree():
    assert tree_of({".".join("a" * 99): 0})
    assert tree_of({"b": 0, ".".join("a" * 5000): 0}) is None


def test_numbers_of_thousands_of_digits_are_words():
    assert runs_of(*(f"h.{n}{'1' * 5000}.w" for n in range(1, 20)), path="h") == []


def test_short_lists_have_no_runs():
    assert runs_of(*(f"blocks.{n}.w" for n in range(8)), path="blocks") == []
    assert runs_of(*(f"blocks.{n}.w" for n in range(9)), path="blocks") == [("", numbered(9))]


def test_numbers_may_end_a_word():
    assert runs_of(*(f"layer_{n}.w" for n in range(12)), *(f"head{n}" for n in range(5))) == [("layer_", numbered(12))]


def test_the_order_of_a_file_sorted_by_name_is_none_of_the_list():
    names = sorted(f"h.{n}.w" for n in range(30))
    assert runs_of(*names, path="h") == [("", numbered(30))]


@pytest.mark.parametrize(
    ("odd", "found"),
    [
        (("h.10.extra",), [numbered(10), numbered(19, 11)]),
        (("h.3.w",), [numbered(26, 4)]),  # one tensor less than the others
    ],
)
def test_another_kind_of_member_parts_a_run(odd, found):
    names = [f"h.{n}.{part}" for n in range(30) for part in ("w", "b")]
    names = [*(name for name in names if name not in odd), *(name for name in odd if name not in names)]
    assert runs_of(*names, path="h") == [("", one) for one in found]


def test_members_whose_tensors_come_in_another_order_are_of_another_kind():
    names = [f"h.{n}.{part}" for n in range(24) for part in (("w", "b") if n < 12 else ("b", "w"))]
    assert runs_of(*names, path="h") == [("", numbered(12)), ("", numbered(12, 12))]


def test_other_facts_are_another_kind():
    tree = tree_of({f"h.{n}.w": (4, 4) if n != 11 else (4, 5) for n in range(24)})
    assert [len(run) for run in Runs(tree).of(tree["h"])] == [11, 12]


def test_lists_of_other_lengths_inside_are_another_kind():
    names = [f"h.{n}.e.{m}.w" for n in range(20) for m in range(12 if n < 10 else 13)]
    tree = tree_of(dict.fromkeys(names, 0))
    runs = Runs(tree)
    assert [len(run) for run in runs.of(tree["h"])] == [10, 10]
    assert runs.lengths() == {10, 12, 13}


def test_a_gap_parts_a_run_and_leading_zeros_are_no_numbers():
    assert [one for _, one in runs_of(*(f"h.{n}.w" for n in range(20) if n != 9), path="h")] == [
        numbered(9),
        numbered(10, 10),
    ]
    assert runs_of(*(f"h.{n:02}.w" for n in range(20)), path="h") == [("", numbered(10, 10))]


@pytest.mark.parametrize(
    ("text", "is_one"), [("0", True), ("12", True), ("012", False), ("", False), ("²", False), ("1" * 5000, False)]
)
def test_numbers_are_written_as_lists_count(text, is_one):
    assert is_number(text) == is_one


def test_lists_of_different_lengths_stay_of_different_lengths():
    sizes = sizes_of({9, 12, 64, 100_000})
    assert sizes == {9: 9, 12: 10, 64: 11, 100_000: 12}


def test_runs_end_behind_so_many_members_in_lists_inside_of_so_many_others():
    names = [f"enc.h.{n}.e.{m}.w" for n in range(3, 14) for m in range(2 if n < 5 else 4)]
    assert Runs(tree_of(dict.fromkeys(names, 0))).ends() == {(0, 0), (0, 2), (0, 11), (1, 0), (1, 2), (1, 4)}


def test_runs_part_where_others_end_and_short_parts_are_none():
    tree = tree_of({f"h.{n}.e.{m}.w": 0 for n in range(1, 31) for m in range(20)})
    runs = Runs(tree)
    runs.part_at({End(0, 10), End(0, 25), End(2, 5)})
    assert [run.numbers for run in runs.of(tree["h"])] == [numbered(10, 1), numbered(15, 11)]
    assert [run.numbers for run in runs.of(tree["h"]["7"]["e"])] == [numbered(20)]
