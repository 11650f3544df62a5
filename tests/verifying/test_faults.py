"""Planted faults: the first operation that diverges is named, and so is the cause."""

import copy
from functools import cache

import pytest
import torch
from faults import FAULTS
from faulty_models import ARCHITECTURES

import torchgraft as tg
from torchgraft.core.results.recording import family
from torchgraft.core.results.verification import KINDS


@cache
def loaded(name):
    source, target, inputs = ARCHITECTURES[name]()
    report = tg.load(target, source, on_doubt="take")
    torch.manual_seed(3)
    return source, target, report, inputs()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sound_load_is_called_equal(name):
    source, target, report, inputs = loaded(name)
    found = tg.verify(target, source, inputs, plan=report)
    assert found.passed, str(found)
    assert found.divergence is None
    assert not found.causes
    assert found.relative < 2e-6


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.architecture}-{fault.name.replace(' ', '_')}")
def test_a_fault_is_found_where_it_is_and_named(fault):
    source, target, report, inputs = loaded(fault.architecture)
    target = copy.deepcopy(target)
    fault.plant(target)
    found = tg.verify(target, source, inputs, plan=report, mode=fault.mode, tolerance=1e-6)
    assert not found.passed
    site = found.divergence.target
    assert (site.module, family(site.name)) == (fault.module, fault.operation), str(found)
    assert found.causes[0].kind == fault.kind, str(found)
    assert {cause.kind for cause in found.causes} <= set(KINDS)
    assert str(found).startswith("outputs differ")
