"""Every tensor of both sides is in exactly one list, and values are compared to the last element."""

import ast
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchgraft as tg
from torchgraft.core.errors import UsageError
from torchgraft.core.results.diff import Distance
from torchgraft.core.results.inspection import summarise
from torchgraft.diffing import CHUNK, compare, compare_with_values, distance
from torchgraft.reading import open_checkpoint
from torchgraft.reporting import text_of
from torchgraft.reporting.json import diff_to_dict, inspection_to_dict

tensors = st.builds(
    lambda shape, kind, value: torch.full(shape, value, dtype=kind),
    st.sampled_from([(), (2,), (2, 3)]),
    st.sampled_from([torch.float32, torch.float16, torch.int64]),
    st.sampled_from([0, 1]),
)
states = st.dictionaries(st.sampled_from(["a.w", "a.b", "c.0.w", "c.1.w", "d"]), tensors, min_size=1)


def opened(state):
    source = open_checkpoint(state)
    return source, source.networks[-1]


def groups(diff):
    changes = (diff.shape_changed, diff.dtype_changed, diff.value_changed)
    return [{s.name for s in diff.added}, {s.name for s in diff.removed}, {s.name for s in diff.same}] + [
        {c.old.name for c in group} for group in changes
    ]


@settings(max_examples=60)
@given(states, states)
def test_every_tensor_has_one_place_and_both_directions_agree(old, new):
    there, back = compare_with_values(opened(old), opened(new)), compare_with_values(opened(new), opened(old))
    found = groups(there)
    assert sum(map(len, found)) == len(set().union(*found)) == len(old.keys() | new.keys())
    assert found[0] == groups(back)[1]
    assert found[1] == groups(back)[0]
    assert found[2:] == groups(back)[2:]
    assert there.equal == (
        old.keys() == new.keys() and all(old[k].dtype == new[k].dtype and torch.equal(old[k], new[k]) for k in old)
    )
    json.dumps(diff_to_dict(there), allow_nan=False)
    assert text_of("diff", there).isprintable() or "\n" in text_of("diff", there)


@given(states)
def test_nothing_differs_from_itself(state):
    assert compare(opened(state), opened(state)).equal
    assert compare_with_values(opened(state), opened(state)).equal


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (torch.zeros(3), torch.zeros(3), (0, 0.0)),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan]), (0, 0.0)),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0]), (1, math.inf)),
        (torch.tensor([math.inf]), torch.tensor([math.inf]), (0, 0.0)),
        (torch.tensor([math.inf]), torch.tensor([-math.inf]), (1, math.inf)),
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 1.0]), (2, 2.0)),
        (torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), (0, 0.0)),
        (torch.tensor([True]), torch.tensor([False]), (1, 1.0)),
        (torch.tensor([3 + 4j]), torch.tensor([0j]), (1, 5.0)),
    ],
)
def test_distances(a, b, expected):
    found = distance(a, b)
    assert (found.elements, found.greatest) == expected


def test_a_difference_in_the_last_chunk_is_found():
    a = torch.zeros(CHUNK + 5)
    b = a.clone()
    b[-1] = 0.25
    assert distance(a, b).elements == 1


def test_the_text_says_what_was_compared_and_hints_at_a_prefix():
    old = {"a.w": torch.ones(2, 2), "a.b": torch.ones(2), "h.w": torch.ones(3, 2), "e": torch.ones(1)}
    new = {"a.w": torch.ones(2, 2) * 2, "a.b": torch.ones(2).half(), "h.w": torch.ones(5, 2), "f": torch.ones(1)}
    assert text_of("diff", compare_with_values(opened(old), opened(new))) == (
        """\
1 added, 1 removed, 1 shape changed, 1 dtype changed, 1 value changed; compared: names, shapes, types and values
from <dict> to <dict>
added: 1 tensor, 1 element
  f [1] float32
removed: 1 tensor, 1 element
  e [1] float32
shape changed: 1 tensor
  h.w: [3, 2] -> [5, 2]
dtype changed: 1 tensor
  a.b: float32 -> float16, values equal
value changed: 1 tensor
  a.w: 4 of 4 elements differ, by 1 at most"""
    )
    wrapped = {"module." + k: v for k, v in old.items()}
    said = (
        "hint: without the prefix 'module.' of the new side, 4 names would agree: compare with rename={'': 'module.'}"
    )
    assert text_of("diff", compare(opened(old), opened(wrapped))).endswith(said)


def test_names_of_the_old_side_are_read_as_the_new_one_has_them():
    old = {"module.a.0.w": torch.ones(2, 2), "module.a.1.w": torch.ones(2, 2), "module.old": torch.ones(1)}
    new = {"net.1.w": torch.ones(2, 2), "net.0.w": torch.ones(2, 2) * 2, "new": torch.ones(1)}
    found = tg.diff(old, new, values=True, rename={"module.a.{i}": "net.{i}", "module.": ""})
    assert groups(found) == [{"new"}, {"module.old"}, {"module.a.1.w"}, set(), set(), {"module.a.0.w"}]
    assert tg.diff(new, new, rename={}).equal


def test_a_prefix_that_the_hint_names_is_taken_off_by_its_remedy():
    plain = {"a.w": torch.ones(2, 2), "a.b": torch.ones(2)}
    wrapped = {"module." + name: value for name, value in plain.items()}
    for old, new in ((plain, wrapped), (wrapped, plain)):
        remedy = tg.diff(old, new).hint.rpartition("rename=")[2]
        assert tg.diff(old, new, values=True, rename=ast.literal_eval(remedy)).equal


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ({"a.w": "a.b"}, "lets several tensors of the old side be 'a.b'"),
        ({"b.": "c."}, "rename"),
        ({"a.w": 1}, "use texts on both sides"),
        (["a"], "a dictionary"),
    ],
)
def test_renames_that_make_no_sense_are_refused(rename, said):
    with pytest.raises(UsageError, match=said):
        tg.diff({"a.w": torch.ones(2), "a.b": torch.ones(2)}, {"a.b": torch.ones(2)}, rename=rename)


def test_progress_is_told_in_bytes():
    told = []
    state = {"a": torch.zeros(4), "b": torch.zeros(2)}
    compare_with_values(opened(state), opened(state), lambda *said: told.append(said))
    assert told == [(32, 48), (48, 48)]


def test_an_inspection_lists_networks_facts_and_ties():
    weight = torch.ones(3, 3)
    state = {
        "model": {f"l.{n}.w": weight + n for n in range(3)} | {"tied": weight, "also": weight},
        "ema": {"l.0.w": weight},
        "epoch": 7,
    }
    source = open_checkpoint(state)
    found = summarise(source, next(n for n in source.networks if n.path == "model"), ("ema",), "took model")
    text = text_of("inspection", found)
    assert "  l.{0-2}.w [3, 3] float32 (3)" in text
    assert "  epoch = 7" in text
    assert "choose: model, ema fit equally well; say which with prefer=" in text
    assert "also = tied" in text
    data = inspection_to_dict(found)
    json.dumps(data, allow_nan=False)
    assert [t["name"] for t in data["tensors"]] == ["l.0.w", "l.1.w", "l.2.w", "tied", "also"]


def test_of_two_equal_networks_it_is_said_which_one_was_compared():
    one, other = {"fc.weight": torch.zeros(2, 3)}, {"fc.weight": torch.ones(2, 3)}
    file = {"net_a": one, "net_b": other}
    found = tg.diff(one, file, values=True)
    assert found.equal
    assert "choose: " in str(found)
    assert found.notes == (
        "<dict> holds several networks that fit equally well: 'net_a' was compared, not 'net_b'; say which with prefer=",
    )
    assert diff_to_dict(found)["notes"] == list(found.notes)
    assert not tg.diff(file, file, prefer="net_b").notes


@pytest.mark.parametrize(
    "kind", [torch.complex32, torch.complex64, torch.bool, torch.bfloat16, torch.float8_e5m2], ids=str
)
def test_one_value_of_any_type_is_told_apart(kind):
    old = torch.tensor([1.0, 0.0, 1.0]).to(kind)
    new = torch.tensor([1.0, 1.0, 1.0]).to(kind)
    assert distance(old, old.clone()).elements == 0
    assert distance(old, new) == Distance(1, 1.0)


WIDE = [2**53, 2**53 + 1, 2**62, 2**62 + 1, -(2**62) - 1]


@pytest.mark.parametrize("kind", [torch.int64, torch.uint64])
def test_whole_numbers_are_told_apart_that_float64_rounds_alike(kind):
    values = [n for n in WIDE if n >= 0 or kind is torch.int64]
    old = torch.tensor(values, dtype=kind)
    new = torch.tensor([n + 1 for n in values], dtype=kind)
    assert distance(old, new).elements == len(values)
    assert distance(old, new).greatest >= 1
    assert distance(old, old.clone()).elements == 0


def test_whole_numbers_of_other_types_are_compared_exactly():
    held = torch.tensor([2**53 + 1, 7, -1])
    assert distance(held, torch.tensor([2**53, 7, -1], dtype=torch.float64)).elements == 1
    assert distance(held, held.double()).elements == 1
    assert distance(held[1:], held[1:].int()).elements == 0
    assert distance(torch.tensor([-1]), torch.tensor([2**64 - 1], dtype=torch.uint64)).elements == 1
    assert distance(torch.tensor([2**62 + 1]), torch.tensor([2**62 + 1], dtype=torch.uint64)).elements == 0


def test_networks_beside_the_compared_one_are_named():
    old = {"model": {"w": torch.zeros(2)}, "ema": {"w": torch.zeros(2)}}
    new = {"model": {"w": torch.zeros(2)}, "ema": {"w": torch.ones(2)}}
    found = tg.diff(old, new, values=True)
    assert found.equal
    assert found.notes == ("<dict> also holds 'ema', which was not compared; say which with prefer=",) * 2
    assert "also holds 'ema'" in str(found)
    assert not tg.diff(old, new, values=True, prefer="ema").equal
    assert tg.diff(old, new, values=True, prefer="ema").notes == ()
    assert tg.diff(old["model"], new["model"], values=True).notes == ()


class Tied(torch.nn.Module):
    """An embedding, and a head that is the same tensor."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_a_second_name_of_a_tied_tensor_is_neither_removed_nor_added(tmp_path):
    model, path = Tied(), tmp_path / "once.safetensors"
    tg.save(path, {"embed.weight": model.embed.weight})
    there, back = tg.diff(model, path, values=True), tg.diff(path, model, values=True)
    assert there.equal
    assert back.equal
    assert there.old_names == back.new_names == {"head.weight": "embed.weight"}
    assert str(there).startswith(
        "equal in names, shapes, types and values but for 1 second name of tied tensors: 1 tensor"
    )
    assert str(there).endswith("tied on the old side only: 1 tensor\n  head.weight = embed.weight")
    assert diff_to_dict(back)["new_names"] == {"head.weight": "embed.weight"}


def test_a_tie_that_a_file_states_is_on_both_sides(tmp_path):
    model = Tied()
    tg.save_model(tmp_path / "tied.safetensors", model)
    for values in (False, True):
        found = tg.diff(model, tmp_path / "tied.safetensors", values=values)
        assert found.equal
        assert not found.old_names
    other = {"embed.weight": torch.zeros(5, 3), "head.weight": torch.zeros(5, 3)}
    assert [one.name for one in tg.diff(tmp_path / "tied.safetensors", other).added] == ["head.weight"]


def test_a_tied_tensor_that_the_other_side_lacks_is_removed_under_all_its_names():
    found = tg.diff(Tied(), {"other": torch.zeros(5, 3)})
    assert {one.name for one in found.removed} == {"embed.weight", "head.weight"}
    assert not found.old_names


def test_second_names_are_known_under_renames_and_untied_values_are_compared():
    model = Tied()
    renamed = tg.diff(model, {"net.head.weight": model.head.weight}, values=True, rename={"": "net."})
    assert renamed.equal
    assert renamed.old_names == {"net.embed.weight": "net.head.weight"}
    untied = {"embed.weight": model.embed.weight, "head.weight": model.embed.weight + 1}
    assert groups(tg.diff(model, untied, values=True)) == [
        set(),
        set(),
        {"embed.weight"},
        set(),
        set(),
        {"head.weight"},
    ]
