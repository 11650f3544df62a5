"""What blocks of a list teach each other, unit by unit: by order, by shapes that stand alone, and only as far as it fits."""

import numpy as np
import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.evidence.scores import FITS
from torchgraft.matching.parts.units import Unit
from torchgraft.matching.solving.block_rules import SLACK, by_block_rules

EVEN = (4, 4)


def units(stem, blocks):
    """Return a unit for each (place, shape) of each block of a list."""
    made = []
    for number, places in enumerate(blocks):
        for place, shape in places:
            path = f"{stem}.{number}.{place}"
            leaf = Leaf(name=f"{path}.weight", shape=shape, dtype=DType.F32, keys=(f"{path}.weight",))
            made.append(Unit(path=path, leaves={"weight": leaf}, blocks=(f"{stem}.{number}",), order=len(made)))
    return made


def lesson(ours, theirs, pairs, *, path=(), scores=()):
    """Return which place each place is paired with in the end, by number and letter; `pairs` and `path` are said alike."""
    sources, targets = units("a", ours), units("b", theirs)
    at = {unit.path[2:]: number for side in (sources, targets) for number, unit in enumerate(side)}
    table = np.ones((len(sources), len(targets)))
    for (source, target), score in dict(scores).items():
        table[at[source], at[target]] = score
    numbered = [(at[source], at[target]) for source, target in pairs.items()]
    orderly = {(at[source], at[target]) for source, target in pairs.items() if source[0] in path}
    found = by_block_rules(numbered, orderly, table, sources, targets)
    return {sources[i].path[2:]: targets[j].path[2:] for i, j in found}


def blocks(count, places, shapes=None):
    return [[(place, (shapes or {}).get(place, EVEN)) for place in places] for _ in range(count)]


STRAIGHT = {"1.p": "1.x", "1.q": "1.y", "2.p": "2.x", "2.q": "2.y"}
CROSSED = {"0.p": "0.y", "0.q": "0.x"}
RIGHT = {"0.p": "0.x", "0.q": "0.y"}


def test_orderly_blocks_teach_the_others():
    found = lesson(blocks(3, "pq"), blocks(3, "xy"), CROSSED | STRAIGHT, path="12")
    assert found == RIGHT | STRAIGHT


def test_blocks_out_of_order_teach_nothing():
    assert lesson(blocks(3, "pq"), blocks(3, "xy"), CROSSED | STRAIGHT) == CROSSED | STRAIGHT


def test_teachers_that_contradict_each_other_teach_nothing():
    pairs = CROSSED | {"1.p": "1.x", "1.q": "1.y", "2.p": "2.y", "2.q": "2.x"}
    found = lesson(
        [[("p", EVEN), ("q", EVEN)], [("p", EVEN), ("q", EVEN)], [("q", EVEN), ("p", EVEN)]],
        blocks(3, "xy"),
        pairs,
        path="12",
    )
    assert found == pairs


@pytest.mark.parametrize(("score", "taken"), [(FITS, True), (FITS - 0.01, False)])
def test_a_lesson_that_does_not_fit_is_not_taken(score, taken):
    lower = {("0.p", "0.y"): 0.5, ("0.q", "0.x"): 0.5, ("0.p", "0.x"): score}
    found = lesson(blocks(3, "pq"), blocks(3, "xy"), CROSSED | STRAIGHT, path="12", scores=lower)
    assert found == (RIGHT if taken else CROSSED) | STRAIGHT


@pytest.mark.parametrize(("loss", "taken"), [(SLACK, True), (SLACK + 0.01, False)])
def test_a_lesson_may_cost_so_much_for_each_pair(loss, taken):
    lower = {("0.p", "0.x"): 1 - loss, ("0.q", "0.y"): 1 - loss}
    found = lesson(blocks(3, "pq"), blocks(3, "xy"), CROSSED | STRAIGHT, path="12", scores=lower)
    assert found == (RIGHT if taken else CROSSED) | STRAIGHT


def test_shapes_that_stand_alone_teach_the_others():
    """Block 1 tells by shapes; in block 0 both places have one shape."""
    ours = [*blocks(1, "pq"), *blocks(1, "pq", {"q": (8, 4)})]
    theirs = [*blocks(1, "xy"), *blocks(1, "xy", {"y": (8, 4)})]
    pairs = CROSSED | {"1.p": "1.x", "1.q": "1.y"}
    assert lesson(ours, theirs, pairs)["0.p"] == "0.x"


def test_what_no_lesson_speaks_of_goes_in_order():
    ours = [*blocks(1, "pqr"), *blocks(1, "pqr", {"p": (8, 4)})]
    theirs = [*blocks(1, "xyz"), *blocks(1, "xyz", {"x": (8, 4)})]
    pairs = {"0.p": "0.y", "0.q": "0.x", "0.r": "0.z", "1.p": "1.x", "1.q": "1.y", "1.r": "1.z"}
    assert lesson(ours, theirs, pairs) == pairs | {"0.p": "0.x", "0.q": "0.y"}


def test_shapes_that_several_places_have_on_one_side_teach_nothing():
    ours = [*blocks(1, "pq"), *blocks(1, "pq", {"p": (8, 4)})]
    theirs = [*blocks(1, "xy"), *blocks(1, "xy", {"x": (8, 4), "y": (8, 4)})]
    pairs = {"0.p": "0.x", "0.q": "0.y", "1.p": "1.x", "1.q": "1.y"}
    assert lesson(ours, theirs, pairs) == pairs


def test_places_that_would_share_one_place_stay():
    """One block says that p is x, another that q is x: no block can be read so."""
    ours = [*blocks(1, "pq"), *blocks(1, "pr", {"p": (8, 4)}), *blocks(1, "qr", {"q": (8, 4)})]
    theirs = [*blocks(1, "xy"), *blocks(1, "xz", {"x": (8, 4)}), *blocks(1, "xz", {"x": (8, 4)})]
    pairs = CROSSED | {"1.p": "1.x", "1.r": "1.z", "2.q": "2.x", "2.r": "2.z"}
    assert lesson(ours, theirs, pairs) == pairs


def test_a_place_that_a_unit_of_another_block_has_is_not_taken_away():
    pairs = STRAIGHT | {"0.p": "0.y", "0.q": "3.x", "3.p": "0.x", "3.q": "3.y", "0.r": "0.z"}
    ours = [*blocks(1, "pqr"), *blocks(2, "pqr"), *blocks(1, "pqr")]
    theirs = [*blocks(1, "xyz"), *blocks(2, "xyz"), *blocks(1, "xyz")]
    pairs |= {"1.r": "1.z", "2.r": "2.z", "3.r": "3.z"}
    found = lesson(ours, theirs, pairs, path="12")
    assert sorted(found.values()) == sorted(pairs.values()), "each place has one unit still"
    assert found == pairs


@pytest.mark.parametrize("paired", [{"0.p": "0.y"}, {}])
def test_blocks_that_are_paired_by_half_or_less_are_not_compared(paired):
    pairs = STRAIGHT | paired
    assert lesson(blocks(3, "pq"), blocks(3, "xy"), pairs, path="12") == pairs


def test_blocks_of_another_size_are_not_compared():
    ours, theirs = blocks(3, "pq"), [[*blocks(1, "xy")[0], ("z", EVEN)], *blocks(2, "xy")]
    assert lesson(ours, theirs, CROSSED | STRAIGHT, path="12") == CROSSED | STRAIGHT


def test_a_place_that_two_blocks_read_otherwise_is_taught_by_neither():
    """A place beside others that no teacher has: either of its two readings would change this block."""
    ours, theirs = [*blocks(1, "pst"), *blocks(2, "puv")], [*blocks(1, "xzw"), *blocks(1, "xmn"), *blocks(1, "zmn")]
    taught_twice = {"1.p": "1.x", "1.u": "1.m", "1.v": "1.n", "2.p": "2.z", "2.u": "2.m", "2.v": "2.n"}
    pairs = {"0.p": "0.w", "0.s": "0.x", "0.t": "0.z"} | taught_twice
    assert lesson(ours, theirs, pairs, path="12") == pairs


def test_shapes_that_stand_alone_count_more_than_order():
    ours = [*blocks(2, "pq"), *blocks(1, "pq", {"p": (8, 4)})]
    theirs = [*blocks(2, "xy"), *blocks(1, "xy", {"y": (8, 4)})]
    pairs = {"0.p": "0.x", "0.q": "0.y", "1.p": "1.x", "1.q": "1.y", "2.p": "2.y", "2.q": "2.x"}
    found = lesson(ours, theirs, pairs, path="1")
    assert (found["0.p"], found["0.q"]) == ("0.y", "0.x")
