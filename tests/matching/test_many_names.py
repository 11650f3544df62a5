"""Thousands of layers under words, not numbers: what names may decide is not compared with all the rest."""

import random
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Certainty
from torchgraft.matching.evidence.wording import Wording
from torchgraft.matching.parts.units import group

WORDS = st.lists(
    st.sampled_from(["query", "key", "encoder", "head", "norm", "text", "teacher"]), min_size=1, max_size=4
)


def features(count, seed):
    """Return made-up words, all different."""
    draw = random.Random(seed)  # noqa: S311
    return [f"{''.join(draw.choices('bcdfghjklmnp', k=7))}{seed}x" for _ in range(count)]


KEPT, GONE, NEW = features(2001, 1), features(20, 2), features(30, 3)


def tables(words, prefix, head):
    """Return shapes of a table for each word, a layer behind them, and a head."""
    shapes = {f"{prefix}{word}.weight": (100 + 100 * (len(word) % 2), 16) for word in words}
    shapes |= {f"{prefix}mixed.weight": (64, 16), f"{prefix}{head}.weight": (10, 64)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def plan():
    """Return what is planned for a model with new features, where the file has others that are gone."""
    return tg.plan(tables([*KEPT, *NEW], "", "head"), tables([*KEPT, *GONE], "module.", "head"))


def test_features_that_came_and_went_leave_all_others_to_their_names(plan):
    fed = {step.slot.names[0]: [feed.key for feed in step.feeds] for step in plan.steps}
    for name in [*KEPT, "mixed", "head"]:
        assert fed[f"{name}.weight"] == [f"module.{name}.weight"]


def test_a_name_that_was_compared_with_no_other_is_likely_not_certain(plan):
    sure = {step.slot.names[0]: step.certainty for step in plan.steps}
    assert {sure[f"{name}.weight"] for name in KEPT} == {Certainty.LIKELY}


def test_nothing_of_another_name_is_placed_without_doubt(plan):
    new = [step for step in plan.steps if step.slot.names[0].removesuffix(".weight") in NEW]
    assert len(new) == len(NEW)
    assert all(step.certainty is Certainty.DOUBT for step in new if step.feeds)


def test_names_without_anything_in_common_are_refused_before_memory_runs_out():
    with pytest.raises(
        tg.UsageError, match=r"650\d modules of the file and 6501 of the model differ too much"
    ) as caught:
        tg.plan(
            {f"{word}.weight": torch.empty(8, 8, device="meta") for word in features(6501, 1)},
            {f"{word}.weight": torch.empty(8, 8, device="meta") for word in features(6501, 2)},
        )
    assert "rename=" in str(caught.value)


def units(names):
    leaves = [
        Leaf(name=f"{name}.weight", keys=(f"{name}.weight",), shape=(4, 4), dtype=DType.F32)
        for name in dict.fromkeys(names)
    ]
    return group(leaves, leaves)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, min_size=1, max_size=6))
def test_likeness_of_names_is_the_cosine_of_their_weighted_words(ours, theirs):
    sources, targets = units(map("_".join, ours)), units(map("_".join, theirs))
    wording = Wording(sources, targets)
    found = wording.likeness()
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            bags = [summed(wording._weighted(unit.words)) for unit in (source, target)]
            lengths = [sqrt(sum(value**2 for value in bag.values())) for bag in bags]
            product = sum(value * bags[1].get(word, 0.0) for word, value in bags[0].items())
            assert found[i, j] == pytest.approx(product / max(lengths[0] * lengths[1], 1e-18), abs=1e-6)


def summed(pairs):
    bag = {}
    for word, value in pairs:
        bag[word] = bag.get(word, 0.0) + value
    return bag
