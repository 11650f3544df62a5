"""What holds for every model and every checkpoint."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from law_models import Net, copied, filled, settings_of_nets, unchanged
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Action, Certainty

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
seeds = st.integers(0, 2**16)
wrappers = st.lists(st.sampled_from(["module.", "_orig_mod.", "model.", "backbone.", "net."]), max_size=3).map("".join)


def placed_right(plan, state, true):
    """Every step that copies takes the source that holds the right value; `true` is target name -> value."""
    for step in plan.steps:
        if step.action is Action.COPY and step.certainty is not Certainty.DOUBT:
            assert torch.equal(state[step.feeds[0].key], true[step.slot.name]), step.slot.name


@few
@given(settings_of_nets, seeds)
def test_a_models_own_state_dict_is_a_full_copy(shape, seed):
    source, target = filled(Net(**shape), seed), filled(Net(**shape), seed + 1)
    report = tg.load(target, source.state_dict())
    assert unchanged(target, source.state_dict())
    assert report.plan.coverage.target == report.plan.coverage.source == 1.0


@few
@given(settings_of_nets, settings_of_nets)
def test_each_slot_has_one_step_and_each_source_tensor_one_fate(shape, other):
    source, target = Net(**shape), Net(**other)
    plan = tg.plan(target, source, on_doubt="take", min_coverage=0.0)
    names = [name for step in plan.steps for name in step.slot.names]
    assert sorted(names) == sorted(target.state_dict())
    used = {feed.key for step in plan.steps for feed in step.feeds}
    unused = [u.spec.name for u in plan.unused]
    assert len(unused) == len(set(unused))
    assert used.isdisjoint(unused)
    assert used | set(unused) == set(source.state_dict())


@few
@given(settings_of_nets, settings_of_nets, seeds)
def test_what_plan_says_is_what_load_does(shape, other, seed):
    source, target = filled(Net(**shape), seed).state_dict(), filled(Net(**other), seed + 1)
    before = copied(target.state_dict())
    plan = tg.plan(target, source)
    assert unchanged(target, before)
    if plan.refusals:
        with pytest.raises(tg.PlanRefusedError) as refused:
            tg.load(target, source)
        assert {o.text for o in refused.value.objections} == {o.text for o in plan.refusals}
        assert unchanged(target, before)
        return
    report = tg.load(target, source)
    assert [(s.slot.name, s.feeds, s.ops) for s in report.plan.steps] == [
        (s.slot.name, s.feeds, s.ops) for s in plan.steps
    ]
    for step in plan.steps:
        value = target.state_dict()[step.slot.name]
        if step.action is Action.FRESH:
            assert torch.equal(value, before[step.slot.name])
        elif step.action is Action.COPY:
            assert torch.equal(value, source[step.feeds[0].key])


@few
@given(settings_of_nets, wrappers, seeds)
def test_whole_wrapper_segments_change_nothing_but_names(shape, wrapper, seed):
    source, target = filled(Net(**shape), seed), filled(Net(**shape), seed + 1)
    state = {wrapper + name: value for name, value in source.state_dict().items()}
    given = list(state)
    report = tg.load(target, {"state_dict": state, "epoch": 3})
    assert unchanged(target, source.state_dict())
    assert not report.plan.fresh
    assert list(state) == given


@few
@given(settings_of_nets, seeds, st.randoms(use_true_random=False))
def test_the_order_of_a_dictionary_of_equal_names_means_nothing(shape, seed, random):
    source, target = filled(Net(**shape), seed), filled(Net(**shape), seed + 1)
    keys = list(source.state_dict())
    random.shuffle(keys)
    tg.load(target, {key: source.state_dict()[key] for key in keys})
    assert unchanged(target, source.state_dict())


@few
@given(settings_of_nets, st.integers(0, 5), st.integers(1, 3), seeds)
def test_an_inserted_layer_never_puts_a_wrong_tensor_in_a_slot_for_certain(shape, at, kernel, seed):
    source, target = filled(Net(**shape), seed), filled(Net(**shape), seed + 1)
    layers = list(target.stem)
    at = min(at, len(layers)) // 3 * 3
    assume(at > 0)
    width = shape["widths"][at // 3 - 1]
    target.stem = nn.Sequential(*layers[:at], nn.Conv2d(width, width, kernel), *layers[at:])
    true = {}
    for name, value in source.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem" and int(parts[1]) >= at:
            parts[1] = str(int(parts[1]) + 1)
        true[".".join(parts)] = value
    inserted = {f"stem.{at}.weight", f"stem.{at}.bias"}
    plan = tg.plan(target, source, on_doubt="take")
    placed_right(plan, source.state_dict(), true | {name: torch.empty(0) for name in inserted})


@few
@given(settings_of_nets, st.integers(1, 3), seeds)
def test_a_shorter_stack_takes_the_first_layers_and_names_the_others(shape, fewer, seed):
    assume(shape["depth"] > fewer)
    source = filled(Net(**shape), seed)
    target = filled(Net(**(shape | {"depth": shape["depth"] - fewer})), seed + 1)
    report = tg.load(target, source)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())
    left = {u.spec.name.split(".")[1] for u in report.plan.unused if not u.quiet}
    assert left == {str(n) for n in range(shape["depth"] - fewer, shape["depth"])}


@few
@given(settings_of_nets, seeds)
def test_names_without_meaning_never_lead_to_wrong_certainty(shape, seed):
    source, target = filled(Net(**shape), seed), Net(**shape)
    words = sorted(
        {part for name in source.state_dict() for part in name.split(".") if not part.isdecimal()} - {"weight", "bias"}
    )
    renamed = {word: f"x{n}z" for n, word in enumerate(reversed(words))}
    state = {".".join(renamed.get(p, p) for p in name.split(".")): value for name, value in source.state_dict().items()}
    plan = tg.plan(target, state, on_doubt="take", min_coverage=0.0)
    placed_right(plan, state, source.state_dict())


@few
@given(settings_of_nets, seeds)
def test_a_second_load_changes_nothing(shape, seed):
    source, target = filled(Net(**shape), seed), filled(Net(**shape), seed + 1)
    first = tg.load(target, source)
    again = tg.load(target, source)
    assert unchanged(target, source.state_dict())
    assert [s.words() for s in first.plan.steps] == [s.words() for s in again.plan.steps]
