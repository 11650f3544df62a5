"""Tensors that can't be filled are refused before anything is written, and what fails on the way back stops nothing."""

from __future__ import annotations

import pytest
import torch
from applying_helpers import fingerprint, plan_for, source_for
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import torchgraft as tg
from torchgraft.applying import Manner, apply
from torchgraft.applying.fill import count_lost
from torchgraft.applying.undo import Undo
from torchgraft.surveying import survey

EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def model_with(**buffers):
    model = nn.Linear(3, 2)
    for name, value in buffers.items():
        model.register_buffer(name, value)
    return model


@pytest.mark.parametrize("call", [tg.plan, tg.load])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(1).expand(4), r"odd \[4\] of the model is expanded: several of its elements are one in memory"),
        (torch.zeros(2, 1).expand(2, 3), r"odd \[2, 3\] of the model is expanded"),
        (torch.eye(3).to_sparse(), "odd of the model is sparse_coo: only dense tensors are filled"),
        (TwoTensor(torch.eye(3), torch.eye(3)), "odd of the model is a TwoTensor, which is made of other tensors"),
    ],
)
def test_tensors_without_room_for_each_element_are_refused(call, value, text):
    model = model_with(odd=value)
    saved = {**nn.Linear(3, 2).state_dict(), "odd": torch.randn(value.shape)}
    before = model.weight.tolist()
    with pytest.raises(tg.UsageError, match=text):
        call(model, saved)
    assert model.weight.tolist() == before
    tg.load(model, saved, fresh=["odd"])
    assert torch.equal(model.weight, saved["weight"])


def test_a_tensor_that_refuses_its_old_values_keeps_none_of_the_others_from_theirs(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = nn.Parameter(torch.randn(4, 8)[:, ::2])
    target = survey(model)
    source = source_for(target, fail_at=3)
    before = fingerprint(model)
    plain = torch.Tensor.copy_

    def stubborn(self, other, *rest):
        if self.data_ptr() == model[0].weight.data_ptr() and stubborn.met:
            raise RuntimeError("not writable any more")
        stubborn.met = self.data_ptr() == model[0].weight.data_ptr()
        return plain(self, other, *rest)

    stubborn.met = False
    monkeypatch.setattr(torch.Tensor, "copy_", stubborn)
    with pytest.raises(tg.ModelLostError, match=r"0\.weight"):
        apply(model, target, plan_for(target, source), source, manner=Manner(undo="keep"))
    monkeypatch.undo()
    assert fingerprint(model)[1:] == before[1:]


def test_what_could_not_be_put_back_is_told():
    tensor = torch.zeros(4)[::2]
    undo = Undo([tensor])
    undo.keep(tensor)
    assert undo.restore() == []
    expanded = torch.zeros(1).expand(3)
    undo.keep(expanded)
    assert [t is expanded for t in undo.restore()] == [True]


@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32])
@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_numbers_beyond_a_type_of_one_byte_are_counted(dtype, given):
    largest = torch.finfo(dtype).max
    values = torch.tensor([0, 1, -largest, largest, 1.5 * largest, -1.5 * largest], dtype=torch.float64)
    values = values[values.abs() <= torch.finfo(torch.float16).max] if given is torch.float16 else values
    beyond = int((values.abs() > largest).sum())
    values = values.to(given)
    assert count_lost(values, values.to(dtype)) == beyond


def test_parameters_of_one_byte_are_filled_and_overflow_is_refused():
    model = model_with(scale=torch.zeros(3, dtype=torch.float8_e4m3fn))
    saved = {**nn.Linear(3, 2).state_dict(), "scale": torch.tensor([1.0, -448.0, 0.5])}
    tg.load(model, saved)
    assert torch.equal(model.scale.float(), saved["scale"])
    saved["scale"][0] = 1000.0
    with pytest.raises(tg.PlanRefusedError, match="scale is float8_e4m3fn, and 1 of its 3 values"):
        tg.load(model, saved)
    assert torch.equal(model.scale.float(), torch.tensor([1.0, -448.0, 0.5]))


@pytest.mark.parametrize("size", [3, 100_000])
def test_numbers_that_a_type_of_as_many_bits_lacks_are_counted(size):
    """The types of AMD's devices have one exponent less at the upper end: 448 becomes NaN."""
    model = nn.ParameterDict({"w": torch.zeros(size, dtype=torch.float8_e4m3fnuz)})
    saved = {"w": torch.ones(size).to(torch.float8_e4m3fn)}
    tg.load(model, saved)
    saved["w"][1] = 448
    with pytest.raises(tg.PlanRefusedError, match="w is float8_e4m3fnuz, and 1 of its"):
        tg.load(model, saved)
    assert bool((model.w.float() == 1).all())


@pytest.mark.parametrize("kind", EIGHT_BITS, ids=str)
def test_nan_of_one_byte_is_refused(kind):
    model = nn.ParameterDict({"w": torch.ones(3, dtype=kind)})
    with pytest.raises(tg.PlanRefusedError, match="would get 1 NaN"):
        tg.load(model, {"w": torch.tensor([0.5, float("nan"), 2.0]).to(kind)})
    assert bool((model.w.float() == 1).all())


@pytest.mark.parametrize("count", [1, 50_000])
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.tensor([200, 3], dtype=torch.uint8), torch.int8),
        (torch.tensor([-1, 3], dtype=torch.int8), torch.uint8),
        (torch.tensor([40_000, 3], dtype=torch.uint16), torch.int16),
        (torch.tensor([-7, 3]), torch.uint64),
        (torch.tensor([1 << 40, 3]), torch.int32),
        (torch.tensor([1e300, 3], dtype=torch.complex128), torch.complex64),
        (torch.tensor([1e300j, 3], dtype=torch.complex128), torch.complex64),
        (torch.tensor([1e300, 3], dtype=torch.float64), torch.complex64),
    ],
    ids=str,
)
def test_what_a_cast_turns_into_another_number_is_counted(given, wanted, count):
    """Whole numbers of one size and another sign come back as they were; they are others all the same."""
    saved = given.repeat(count)
    model = model_with(odd=torch.ones(len(saved)).to(wanted))
    before = fingerprint(model)
    with pytest.raises(
        tg.PlanRefusedError, match=f"and {count} of its {2 * count} values, .* do not fit into that type"
    ):
        tg.load(model, {**nn.Linear(3, 2).state_dict(), "odd": saved})
    assert fingerprint(model) == before
    tg.load(model, {**nn.Linear(3, 2).state_dict(), "odd": saved[1:2].repeat(len(saved))})
    assert bool((model.odd.to(torch.complex64) == 3).all())


def test_signs_and_zeros_that_a_type_of_powers_of_two_lacks_are_counted():
    values = torch.tensor([1.0, -1.0, 0.0, 2.0, 3.0, -0.5])
    assert count_lost(values, values.to(torch.float8_e8m0fnu)) == 3
    with pytest.raises(
        tg.PlanRefusedError, match="3 of its 6 values, float32 in the checkpoint, do not fit into that type"
    ):
        tg.load(nn.ParameterDict({"scale": torch.zeros(6, dtype=torch.float8_e8m0fnu)}), {"scale": values})


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("made", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(2, 3))])
def test_scripted_and_traced_modules_are_filled(made):
    model = made(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval())
    saved = {name: torch.rand(value.shape).to(value.dtype) for name, value in model.state_dict().items()}
    tg.load(model, saved)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_autocast_around_a_load_changes_no_value_and_forgets_the_old_ones():
    model = nn.Sequential(nn.Linear(64, 64))
    saved = {"0.weight": torch.randn(64, 64), "0.bias": torch.randn(64)}
    down, up, x = torch.randn(4, 64), torch.randn(64, 4), torch.randn(2, 64)
    adapters = {"base_model.model.0.lora_A.weight": down, "base_model.model.0.lora_B.weight": up}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        tg.load(model, saved)
        seen = model(x)
        assert torch.equal(model[0].weight, saved["0.weight"])
        tg.load(model, adapters, merge_lora=2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = nn.functional.linear(x, saved["0.weight"], saved["0.bias"])
    assert torch.equal(seen, expected)
    assert torch.allclose(model[0].weight, saved["0.weight"] + 2.0 * up @ down, rtol=1e-6, atol=1e-5)


def test_two_loads_of_one_tensor_at_a_time_are_refused():
    shared = nn.Linear(64, 64)
    first, second = nn.Sequential(shared, nn.Linear(64, 64)), nn.Sequential(nn.ReLU(), shared)
    saved = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).state_dict()
    other = {"1.weight": torch.randn(64, 64), "1.bias": torch.randn(64)}
    said = []

    def within(done, total):
        with pytest.raises(tg.UsageError, match="is being filled by another load") as caught:
            tg.load(second, other)
        said.append(caught.value)

    tg.load(first, saved, progress=within)
    assert said
    assert all(torch.equal(value, saved[key]) for key, value in first.state_dict().items())
    tg.load(second, other)
    assert torch.equal(shared.weight, other["1.weight"])


@pytest.mark.parametrize("given", [torch.int64, torch.uint64, torch.uint32])
def test_whole_numbers_that_a_float_would_round_are_refused(given):
    model = model_with(ids=torch.zeros(3))
    saved = {**nn.Linear(3, 2).state_dict(), "ids": torch.tensor([2**24, 3, 5]).to(given)}
    tg.load(model, saved)
    assert model.ids.tolist() == [2**24, 3, 5]
    saved["ids"] = torch.tensor([2**24, 2**24 + 1, 2**31 - 1]).to(given)
    with pytest.raises(tg.PlanRefusedError, match="ids is float32, and 2 of its 3 values"):
        tg.load(model, saved)
    assert model.ids.tolist() == [2**24, 3, 5]
