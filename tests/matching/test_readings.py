"""Modules are asked for what they hold by their kinds: the answer is the one that each path alone would give."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.names.lists import blocks_around, by_content, numbered_lists, place_of, stem
from torchgraft.matching.names.readings import read_beside
from torchgraft.matching.parts.units import group

SEGMENTS = st.sampled_from(["0", "1", "2", "layer1", "layer2", "block4a", "block4b", "attn", "mlp", "w1"])
PATHS = st.lists(st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=12, unique=True)


def around(path: str) -> list[str]:
    """Return a path and the modules around it, innermost first, without the root."""
    parts = path.split(".")
    return [".".join(parts[:at]) for at in range(len(parts), 0, -1)]


@given(PATHS)
def test_lists_are_those_of_which_some_place_holds_two_numbers(paths: list[str]) -> None:
    ends = defaultdict(set)
    for path in {one for whole in paths for one in around(whole)}:
        parent, _, last = path.rpartition(".")
        before = stem(last)
        if before is not None:
            ends[parent, before].add(last[len(before) :])
    places = defaultdict(set)
    for (parent, before), numbers in ends.items():
        places[place_of(parent), place_of(before)] |= numbers
    several = {key for key in ends if len(places[place_of(key[0]), place_of(key[1])]) > 1}
    assert numbered_lists(by_content(paths)) == several
    for path, blocks in blocks_around(paths, several).items():
        inside = [
            one for one in reversed(around(path)) if (one.rpartition(".")[0], stem(one.rpartition(".")[2])) in several
        ]
        assert list(blocks) == inside


@given(PATHS)
def test_home_is_the_innermost_module_around_two_units(paths: list[str]) -> None:
    leaves = [
        Leaf(name=f"{path}.weight", shape=(2,), dtype=DType.F32, keys=(f"{path}.weight",), order=at)
        for at, path in enumerate(paths)
    ]
    for unit in group(leaves):
        modules = [*around(unit.path)[1:], ""]
        holding = (m for m in modules if not m or sum(path.startswith(f"{m}.") for path in paths) > 1)
        assert unit.home == next(holding)


@pytest.mark.parametrize("block", ["", "layers.3.", "layers.12."])
@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (["w1", "w2", "c_proj"], {"w1": "up", "w2": "gate"}),
        (["w1", "w2"], {"w1": "fc1", "w2": "fc2"}),
        (["w1", "w2", "w3"], {}),
        (["q_proj", "k_proj", "v_proj", "out"], {"out": "o"}),
        (["pre_ln", "ln1"], {"pre_ln": "norm0"}),
        (["linears.0", "linears.1", "linears.2", "linears.3"], {"linears.0": "q", "linears.1": "k", "linears.2": "v", "linears.3": "o"}),
        (["bn0", "bn1"], {"bn0": "bn1", "bn1": "bn2"}),
    ],
)  # fmt: skip
def test_what_stands_beside_tells_how_a_name_is_read(block: str, inside: list[str], said: dict[str, str]) -> None:
    modules = by_content(f"{block}{name}" for name in inside)
    assert read_beside(modules, ()) == {f"{block}{name}": f"{block}{meant}" for name, meant in said.items()}


def test_a_row_from_zero_stays_where_the_other_side_has_its_rest() -> None:
    modules = by_content(["a.bn0", "a.bn1", "a.bn2"])
    assert read_beside(modules, ["b.bn1", "b.bn2"]) == {}
