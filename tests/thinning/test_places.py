from torchgraft.thinning.places import Level, places_of
from torchgraft.thinning.runs import Runs, sizes_of, tree_of


def placed(names, facts=None):
    tree = tree_of({name: (facts or {}).get(name, 0) for name in names})
    runs = Runs(tree)
    return places_of(tree, runs, sizes_of(runs.lengths()))


def leaves(places, names):
    return {new: place.name for new, place in places.items() if place.name in set(names)}


def test_the_first_and_the_last_stay_without_gaps():
    names = [f"h.{n}.w" for n in range(40)]
    kept = leaves(placed(names), names)
    assert kept == {**{f"h.{n}.w": f"h.{n}.w" for n in range(8)}, "h.8.w": "h.39.w"}


def test_members_behind_a_run_move_up():
    odd = {f"h.{n}.w": "other" for n in (0, 1, 2, 40, 41)}
    names = [f"h.{n}.w" for n in range(42)]
    kept = leaves(placed(names, odd), names)
    assert [*kept.values()] == [f"h.{n}.w" for n in (*range(11), 39, 40, 41)]
    assert [*kept] == [f"h.{n}.w" for n in range(14)]


def test_two_runs_of_one_list_both_become_shorter():
    odd = {f"h.{n}.w": "other" for n in range(20, 50)}
    names = [f"h.{n}.w" for n in range(50)]
    places = placed(names, odd)
    kept = leaves(places, names)
    assert [*kept] == [f"h.{n}.w" for n in range(9 + 10)]
    assert kept["h.8.w"] == "h.19.w"
    assert kept["h.9.w"] == "h.20.w"
    assert kept["h.18.w"] == "h.49.w"


def test_a_place_tells_all_names_that_it_stands_for():
    names = [f"enc.layers_{n}.e.{m}.w" for n in range(12) for m in range(30)]
    place = placed(names)["enc.layers_3.e.9.w"]
    assert place.name == "enc.layers_3.e.29.w"
    assert place.pieces == ("enc.layers_", ".e.", ".w")
    assert place.lengths == (12, 30)
    assert place.at == (3, 29)
    assert not place.is_inside
    assert place.segments() == [
        ["enc"],
        ["layers_", Level(0, place.runs[0]), ""],
        ["e"],
        ["", Level(1, place.runs[1]), ""],
        ["w"],
    ]


def test_a_path_is_around_what_lies_in_its_member():
    names = [f"{tower}.h.{n}.{part}.w" for tower in "ab" for n in range(20) for part in ("q", "k")]
    places = placed(names)
    assert places["a.h.3"].is_around(places["a.h.3.q.w"])
    assert places["a"].is_around(places["a.h.3.q.w"])
    assert not places["a.h.3"].is_around(places["a.h.4.q.w"])
    assert not places["a.h.3"].is_around(places["b.h.3.q.w"])
