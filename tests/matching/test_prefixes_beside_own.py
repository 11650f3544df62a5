"""Prefix rules beside what has the very name, or the same right to it: a part that was unwrapped is taken for no other."""

import pytest
from scoring import Case, decided


def layers(path, count=3, size=8):
    return {f"{path}layers.{at}.{name}.weight": [size, size] for at in range(count) for name in ("fc1", "fc2")}


def test_what_has_the_very_name_is_not_passed_for_what_lies_in_a_wrapper():
    """The one tower's blocks are called otherwise there, and the other tower of the file lacks one."""
    file = {**layers("visual.blocks."), **layers("blocks.", 1), "visual.stem.weight": [8, 4]}
    model = {**layers("blocks."), **layers("visual.blocks_new."), "stem.weight": [8, 4]}
    found = decided(Case(file, model))
    assert found
    assert all(sure == "doubt" for slot, (_, sure) in found.items() if slot.startswith("blocks."))


@pytest.mark.parametrize("side", [0, 1])
def test_of_two_wrappers_none_is_taken_off_without_a_word(side):
    """Also where less than half of the model lies in them: `coarse.` and `fine.` beside what finds no partner."""
    one = {**layers("stem.", 9), **layers("", 2, size=6), **layers("added.", 9, size=5)}
    both = {**layers("stem.", 9), **layers("coarse.", 2, size=6), **layers("fine.", 2, size=6)}
    found = decided(Case(both, one) if side == 0 else Case(one, both))
    assert {sure for slot, (_, sure) in found.items() if not slot.startswith("stem.")} <= {"doubt"}


@pytest.mark.parametrize(("one", "other"), [("encoder_k", "encoder_q"), ("student", "teacher"), ("text", "visual")])
def test_a_part_is_not_read_as_its_counterpart(one, other):
    file = {**layers(""), **layers(f"{one}.")}
    model = {**layers(""), **layers(f"{other}.")}
    found = decided(Case(file, model))
    assert {sure for slot, (source, sure) in found.items() if source.startswith(f"{one}.")} <= {"doubt"}


@pytest.mark.parametrize("names", [("early_", "late_"), ("encoder_", "decoder_"), ("encoder.", "decoder.")])
@pytest.mark.parametrize("count", [1, 2])
def test_of_two_lists_of_the_model_the_shorter_one_might_be_meant_as_well(names, count):
    """A layer may have been added to the longer one, which was certain by its length alone."""
    file = {**layers("stem.", 9, size=6), **layers("", 3)}
    model = {**layers("stem.", 9, size=6), **layers(names[0], 3), **layers(names[1], count)}
    found = decided(Case(file, model))
    assert {sure for slot, (source, sure) in found.items() if source and not slot.startswith("stem.")} == {"doubt"}


def test_a_list_whose_twin_has_other_sizes_or_is_filled_is_no_question():
    file = {**layers("stem.", 9, size=6), **layers("", 3)}
    for second in (layers("late_", 1, size=5), {}):
        found = decided(Case(file, {**layers("stem.", 9, size=6), **layers("early_", 3), **second}))
        assert {sure for _, sure in found.values()} == {"certain"}
    split = {**layers("stem.", 9, size=6), **layers("early_", 2), **layers("late_", 1)}
    assert "doubt" not in {sure for _, sure in decided(Case(file, split)).values()}
