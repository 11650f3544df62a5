"""Blocks that are split over lists, counted otherwise, or left in part: what is certain of a layer is certain of its block."""

import pytest
from scoring import Case, decided

SHAPES = {"norm1.weight": [8], "attn.qkv.weight": [24, 8], "attn.proj.weight": [8, 8], "fc1.weight": [16, 8]}


def blocks(path, numbers, **renamed):
    shapes = {renamed.get(name.split(".")[0], name): shape for name, shape in SHAPES.items()}
    return {f"{path}.{at}.{name}": shape for at in numbers for name, shape in shapes.items()}


def ends(file):
    return {"embed.weight": [20, 8], **file, "head.weight": [5, 8]}


@pytest.mark.parametrize("side", [0, 1])
def test_a_list_that_is_two_is_not_taken_from_the_back(side):
    """By name the longer part could be all of the first blocks, and the last one the shorter part."""
    one, two = ends(blocks("blocks", range(3))), ends({**blocks("early", range(1)), **blocks("late", range(2))})
    found = decided(Case(one, two) if side == 0 else Case(two, one))
    assert {sure for slot, (_, sure) in found.items() if slot not in {"embed.weight", "head.weight"}} <= {"doubt"}


def test_blocks_counted_from_one_are_not_crossed_by_their_numbers():
    file, model = blocks("blocks", (1, 2)), blocks("blocks", (0, 1))
    model = {name.replace("blocks.0.attn.qkv", "blocks.0.attn.qkv.base_layer"): shape for name, shape in model.items()}
    for slot, (source, sure) in decided(Case(ends(file), ends(model))).items():
        if slot.startswith("blocks."):
            assert sure == "doubt" or int(source.split(".")[1]) == int(slot.split(".")[1]) + 1


def experts(path, names):
    return {f"{path}.experts.{name}.{layer}.weight": [4, 8] for name in names for layer in ("up", "gate")}


def test_an_expert_does_not_leave_a_layer_whose_others_go_by_their_names():
    def layers(of_second, count):
        first, second = blocks("layers", [0]), blocks("layers", [1])
        return ends({**first, **experts("layers.0", range(count)), **second, **experts("layers.1", of_second)})

    found = decided(Case(layers(range(2), 1), layers(("low", "mid"), 2)))
    for slot, (source, sure) in found.items():
        assert sure == "doubt" or not slot.startswith("layers.") or source.split(".")[1] == slot.split(".")[1]
