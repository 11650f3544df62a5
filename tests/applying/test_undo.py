"""Without old values in memory: everything is checked before the first byte is written, and what then fails is plain."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from applying_helpers import MemorySource, fingerprint, plan_for, reads_in_parts, source_for
from applying_models import ALL, conv
from torch import nn

import torchgraft as tg
from torchgraft.applying import Manner, apply
from torchgraft.applying.cells import address_range_of, are_disjoint
from torchgraft.applying.undo import KEPT
from torchgraft.core.errors import ApplyError, CorruptCheckpointError, ModelLostError, PlanRefusedError, UsageError
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values


def layers():
    return nn.Sequential(*[nn.Linear(300, 300) for _ in range(6)])


def first_reads(model, source):
    """Return how many reads the first go takes: all but one again for each tensor that is read twice."""
    target = survey(model)
    writing = source_for(target, seed=1)
    done = apply(model, target, plan_for(target, writing), writing, manner=Manner(undo="check"))
    assert done.undo_bytes < 300
    return writing.reads - len(source.tensors)


@pytest.mark.parametrize("error", [OSError, CorruptCheckpointError, KeyboardInterrupt])
@pytest.mark.parametrize("build", [conv, layers])
def test_a_file_that_fails_at_first_reading_leaves_the_model_as_it_was(build, error):
    model = build()
    target = survey(model)
    reads = first_reads(model, source_for(target))
    before = fingerprint(model)
    for at in range(reads):
        source = source_for(target, fail_at=at, error=error)
        with pytest.raises((ApplyError, CorruptCheckpointError, KeyboardInterrupt)) as caught:
            apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo="check"))
        assert not isinstance(caught.value, ModelLostError)
        assert fingerprint(model) == before


def test_a_file_that_fails_at_second_reading_leaves_nan_and_says_so():
    model = layers()
    target = survey(model)
    reads = first_reads(model, source_for(target))
    source = source_for(target, fail_at=reads + 3)
    with pytest.raises(
        ModelLostError, match=r"OSError: injected; .*0.weight, 0.bias, 1.weight and 9 more hold NaN now"
    ):
        apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo="check"))
    assert all(torch.isnan(p).all() for p in model.parameters())


def test_values_that_change_between_the_readings_are_found():
    model = layers()
    target = survey(model)
    source = source_for(target)
    plain, seen = source.read_into, set()

    def changing(network, key, buffer, start=0):
        plain(network, key, buffer, start)
        if key == "3.weight" and key in seen:
            buffer[-1] ^= 1
        seen.add(key)

    source.read_into = changing
    with pytest.raises(ModelLostError, match=r"1 of 12 tensors .* differing: 3.weight"):
        apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo="check"))


def test_odd_values_are_refused_before_anything_is_written():
    model = layers()
    target = survey(model)
    source = source_for(target)
    source.tensors["5.weight"][7, 7] = float("nan")
    before = fingerprint(model)
    with pytest.raises(PlanRefusedError, match="1 NaN"):
        apply(model, target, plan_for(target, source), source, manner=Manner(undo="check"))
    assert fingerprint(model) == before


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_during_the_second_reading_waits_until_the_model_is_whole():
    model = layers()
    target = survey(model)
    source = source_for(target)
    plain, seen = source.read_into, set()

    def interrupted(network, key, buffer, start=0):
        if key == "2.weight" and key in seen:
            os.kill(os.getpid(), signal.SIGINT)
        seen.add(key)
        plain(network, key, buffer, start)

    source.read_into = interrupted
    with pytest.raises(KeyboardInterrupt):
        apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo="check"))
    assert all(torch.equal(value, source.tensors[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("error", [OSError, CorruptCheckpointError, KeyboardInterrupt])
def test_without_a_way_back_any_failure_leaves_nan_and_says_so(error):
    model = layers()
    target = survey(model)
    source = source_for(target, fail_at=5, error=error)
    with pytest.raises(ModelLostError, match=rf"{error.__name__}: injected; old values were not kept: 0.weight"):
        apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo="none"))
    assert all(torch.isnan(p).all() for p in model.parameters())


@pytest.mark.parametrize("size", [3, 200_000])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.complex64, torch.int8])
def test_what_is_lost_is_nan_or_zero_in_every_type(kind, size):
    model = nn.ParameterDict({"w": nn.Parameter(torch.ones(size).to(kind), requires_grad=False)})

    def failing(_done, _whole):
        raise RuntimeError("injected")

    with pytest.raises(ModelLostError, match="w hold"):
        tg.load(model, {"w": torch.ones(size).to(kind)}, undo="none", progress=failing)
    lost = model["w"].to(torch.complex64) if kind.is_complex else model["w"].float()
    assert torch.isnan(lost).all() if kind.is_floating_point or kind.is_complex else not lost.any()


def test_without_a_way_back_each_byte_is_read_once():
    model = layers()
    target = survey(model)
    source = source_for(target)
    counted = reads_in_parts(source)
    done = apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo="none"))
    assert done.undo_bytes == 0
    assert all(torch.equal(value, source.tensors[name]) for name, value in model.state_dict().items())
    assert counted["0.weight"] == 4 * 300 * 300
    assert counted["0.bias"] == 4 * 300


@pytest.mark.parametrize("undo", ["check", "none"])
def test_a_model_on_meta_has_nothing_to_lose(undo):
    with torch.device("meta"):
        model = layers()
    target = survey(model)
    source = source_for(target, fail_at=9)
    with pytest.raises(ApplyError, match="put back"):
        apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo=undo))
    assert all(p.is_meta for p in model.parameters())


def test_large_models_are_checked_first_and_small_ones_kept():
    large = nn.Linear(KEPT // 4 // 1024 + 1, 1024)
    for model, kept in ((large, 4096), (conv(), 1176)):
        target = survey(model)
        source = source_for(target)
        done = apply(model, target, plan_for(target, source), source, verify=compare_values)
        assert done.undo_bytes == kept
        assert torch.equal(next(model.parameters()), next(iter(source.tensors.values())))


def test_tensors_that_overlap_keep_their_old_values():
    memory = torch.randn(KEPT // 4 + 4096)
    model = nn.Module()
    model.one = nn.Parameter(memory[:-4096])
    model.two = nn.Parameter(memory[4096:])
    before = memory.clone()
    target = survey(model)
    source = source_for(target)
    with pytest.raises(ApplyError, match="put back"):
        apply(model, target, plan_for(target, source), source, verify=compare_values)
    assert torch.equal(memory, before)


@pytest.mark.parametrize("build", ALL, ids=lambda b: b.__name__)
def test_ordinary_models_are_apart(build):
    assert are_disjoint(
        [address_range_of(tensor) for tensor in {t.data_ptr(): t for t in build().state_dict().values()}.values()]
    )


def test_strided_views_of_one_memory_are_not_apart():
    memory = torch.zeros(8)
    assert not are_disjoint([address_range_of(memory[::2]), address_range_of(memory[1::2])])
    assert are_disjoint([address_range_of(memory[4:]), address_range_of(memory[:4])])


def test_an_unknown_way_is_refused_at_once():
    model = conv()
    source = MemorySource({})
    with pytest.raises(UsageError, match="undo='never': use one of 'auto', 'keep', 'check', 'none'"):
        apply(model, survey(model), plan_for(survey(model), source), source, manner=Manner(undo="never"))
