from dataclasses import fields, replace

import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.registration import as_registered
from torchgraft.core.specs import Network, Setting, Slot, Target, TensorSpec
from torchgraft.thinning import few as module
from torchgraft.thinning import thinned


@pytest.fixture(autouse=True)
def worth_it(monkeypatch):
    monkeypatch.setattr(module, "MANY", 0)


def network(names, **more):
    return Network("", {name: TensorSpec(name, (4,), DType.F32) for name in names}, **more)


def target(names, aliases=None, **more):
    slots = tuple(
        Slot(
            spec=TensorSpec(name, (4,), DType.F32),
            aliases=(aliases or {}).get(name, ()),
            owner=name.rpartition(".")[0],
            order=order,
        )
        for order, name in enumerate(names)
    )
    return Target(slots, **{"classes": {}, **more})


LONG = [f"h.{n}.{part}" for n in range(100) for part in ("w", "b")]
LEFT = [f"h.{n}.{part}" for n in range(9) for part in ("w", "b")]


def test_few_members_stay_on_both_sides():
    few = thinned(network(["top", *LONG]), target([*LONG, "top"]))
    assert [*few.network.specs] == ["top", *LEFT]
    assert all(name == spec.name for name, spec in few.network.specs.items())
    assert [slot.name for slot in few.target.slots] == [*LEFT, "top"]
    assert [slot.owner for slot in few.target.slots][-3:] == ["h.8", "h.8", ""]


def test_small_sides_are_not_worth_the_detour(monkeypatch):
    monkeypatch.setattr(module, "MANY", 201)
    assert thinned(network(LONG), target(LONG)) is None
    assert thinned(network([*LONG, "top"]), target(LONG))
    assert thinned(network(LONG), target([*LONG, "top"]))


def test_a_list_is_parted_where_that_of_the_other_side_ends():
    few = thinned(network(LONG), target(LONG[:60]))
    assert len(few.network.specs) == 2 * (9 + 10)
    assert len(few.target.slots) == 2 * 9
    same = {f"h.{n}.w": f"h.{n}.w" for n in range(8)} | {"h.8.w": "h.29.w"}
    for places in few.places:
        assert {new: places[new].name for new in same} == same
    assert few.places[0]["h.9.w"].name == "h.30.w"


def test_a_side_of_which_most_stays_is_not_worth_the_detour():
    apart = [f"part_{chr(97 + n)}.w" for n in range(26)]
    assert thinned(network([*LONG[:40], *apart]), target(LONG)) is None


def test_names_that_are_paths_of_others_are_left_alone():
    assert thinned(network([*LONG, "h"]), target(LONG)) is None


@pytest.mark.parametrize("count", [30, 128, 300])
def test_the_few_of_a_file_say_as_much_of_its_order(count):
    names = [f"h.{n}.{part}" for n in range(count) for part in ("weight", "bias")]
    for order, tells in ((sorted, False), (list, True)):
        few = thinned(network(order(names)), target(names))
        for held in (few.network, few.whole[0]):
            assert as_registered((name, spec.dtype) for name, spec in held.specs.items()) is tells
    assert [*few.network.specs] == [f"h.{n}.{part}" for n in range(9) for part in ("weight", "bias")]


def test_what_has_several_names_stays_as_it_is():
    ties = {"h.50.w": ("h.20.b",), "h.0.w": ("out",)}
    few = thinned(network(LONG), target([name for name in LONG if name != "h.20.b"], aliases=ties))
    tied = {slot.name: slot.aliases for slot in few.target.slots if slot.aliases}
    whole = {few.places[1][name].name: few.places[1][other].name for name, (other,) in tied.items()}
    assert whole == {"h.50.w": "h.20.b", "h.0.w": "out"}
    shared = {"h.70.w": "h.30.w"}
    few = thinned(network(LONG, shared=shared), target(LONG))
    assert {few.places[0][a].name: few.places[0][b].name for a, b in few.network.shared.items()} == shared


def test_what_is_told_of_modules_goes_with_them():
    classes = {"": "Net", "h": "ModuleList", **{f"h.{n}": "Block" for n in range(100)}}
    heads = {"": 4, **{f"h.{n}": 8 if n < 50 else 16 for n in range(100)}}
    few = thinned(network(LONG), target(LONG, classes=classes, heads=heads))
    assert few.target.classes == {"": "Net", "h": "ModuleList", **{f"h.{n}": "Block" for n in range(18)}}
    assert few.target.heads == {"": 4, **{f"h.{n}": 8 if n < 9 else 16 for n in range(18)}}


# What names and places already say, or a run is found by.
SAID = {"spec", "aliases", "owner", "order"}
OTHERWISE = {"kind": "Other", "is_buffer": True, "persistent": False, "is_linear": True, "setting": Setting(groups=2)}


@pytest.mark.parametrize("field", [one.name for one in fields(Slot) if one.name not in SAID])
def test_slots_that_differ_part_a_run(field):
    model = target(LONG)
    slots = tuple(
        replace(slot, **{field: OTHERWISE[field]}) if slot.name.startswith("h.99.") else slot for slot in model.slots
    )
    few = thinned(network(LONG), replace(model, slots=slots))
    assert len(few.target.slots) == 2 * 9 + 2
