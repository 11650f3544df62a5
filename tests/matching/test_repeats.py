"""What is matched for a few members of a list and said of all is what matching all of them finds."""

from unittest.mock import patch

import pytest
import torch
from decoders import Decoder, matched, pairs
from hypothesis import HealthCheck, given, settings

import torchgraft as tg
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Certainty
from torchgraft.matching.solving.solve import solve

DEEP = Decoder("d" * 3 + "m" * 20, experts=12)


def said(matching):
    """Return who feeds whom, how sure, and whether alternatives are named."""
    return {(m.source.name, m.target.name): (m.certainty, m.why.rule, bool(m.alternatives)) for m in matching.matches}


def by_few(source, target):
    with patch("torchgraft.matching.solving.large.AT_ONCE", 0):
        return matched(source, target)


def in_full(source, target):
    with patch("torchgraft.matching.structure.solve_large", solve):
        return matched(source, target)


def asked(source, target):
    """Return how many units were matched with each other, each time."""
    with patch("torchgraft.matching.solving.large.solve", wraps=solve) as judge:
        by_few(source, target)
    return [(len(call.args[0].sources), len(call.args[0].targets)) for call in judge.call_args_list]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pairs())
def test_a_few_speak_for_all_as_all_would_speak(decoders):
    few, full = by_few(*decoders), in_full(*decoders)
    assert said(few) == said(full)
    assert {leaf.name for leaf in few.free_sources} == {leaf.name for leaf in full.free_sources}
    assert {leaf.name for leaf in few.free_targets} == {leaf.name for leaf in full.free_targets}


def test_experts_turned_round_are_said_alike():
    source, target = Decoder("mmmmmmmd", 9, "meta"), Decoder("dmmmmmmm", 9)
    assert said(by_few(source, target)) == said(in_full(source, target))


def test_many_layers_of_many_experts_are_one_small_question():
    source, target = Decoder(**vars(DEEP) | {"spelling": "meta"}), DEEP
    assert len(matched(source, target).matches) == 23 * 6 + 3 * 3 + 20 * (1 + 12 * 3) + 3
    assert max(max(sizes) for sizes in asked(source, target)) < 250


def test_every_member_is_fed_by_its_own_counterpart():
    found = by_few(Decoder(**vars(DEEP) | {"spelling": "meta"}), DEEP)
    numbers = {
        tuple(tuple(p for p in name.split(".") if p.isdecimal()) for name in (m.source.name, m.target.name))
        for m in found.matches
    }
    assert all(ours == theirs for ours, theirs in numbers)
    assert len(numbers) == 23 + 20 * 12 + 1


def test_reasons_and_alternatives_speak_of_the_member_they_stand_for():
    found = by_few(Decoder("d" * 20, spelling="odd"), Decoder("d" * 20))
    middle = [m for m in found.matches if m.target.name.startswith("model.layers.10.self_attn")]
    assert len(middle) == 4
    for match in middle:
        assert match.certainty is not Certainty.CERTAIN
        assert "xa.10." in " ".join((match.why.text, *match.why.evidence, match.alternatives[0].keys[0]))


def test_lists_of_unequal_length_are_matched_as_a_whole():
    source, target = Decoder("d" * 20, spelling="meta"), Decoder("d" * 17)
    assert asked(source, target) == [(20 * 9 + 3, 17 * 9 + 3)]


def test_what_is_too_much_to_compare_is_said_before_memory_runs_out():
    source, target = Decoder("m" * 12, experts=9, spelling="meta"), Decoder("m" * 11, experts=10)
    with (
        patch("torchgraft.matching.solving.large.SOME", 50_000),
        patch("torchgraft.matching.solving.large.MOST", 50_000),
        pytest.raises(UsageError, match=r"411 modules .* 410 of the model .* rename="),
    ):
        by_few(source, target)


def test_lists_that_look_alike_but_do_not_correspond_are_taken_whole_in_another_round():
    layers_like_experts = Decoder("m" * 12, experts=11, spelling="meta"), Decoder("m" * 12, experts=12)
    whole = 6 * (7 + 33) + 3, 6 * (7 + 36) + 3
    assert asked(*layers_like_experts) == [(whole[0], 6 * (7 + 18) + 3), whole]


def test_too_many_that_nothing_tells_apart_are_said_before_each_was_compared_with_each():
    names = [f"{one}{other}" for one in "bdfghklm" for other in "npqrstvwxz"]
    source, target = ({f"{name}{end}": torch.zeros(4, 3) for name in names} for end in "oi")
    with (
        patch("torchgraft.matching.judging.rivals.MOST_COMPARED", 2000),
        pytest.raises(UsageError, match=r"each one of 80 that nothing tells apart.* rename="),
    ):
        tg.plan(target, source)
