"""Models on meta come out whole, or not at all."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from applying_helpers import fingerprint, plan_for, source_for
from applying_models import ALL, Tied, TiedStorage, conv
from torch import nn

import torchgraft as tg
from torchgraft.applying import apply
from torchgraft.core.errors import ApplyError, PlanRefusedError
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values


def on_meta(build):
    with torch.device("meta"):
        return build()


class Rotary(nn.Module):
    """A buffer that only the constructor computes, from arguments that the module keeps."""

    def __init__(self, dim, device=None):
        super().__init__()
        self.dim = dim
        self.register_buffer("table", torch.arange(dim, device=device) / dim, persistent=False)


class Lost(nn.Module):
    """A buffer whose making nobody remembers."""

    def __init__(self, dim):
        super().__init__()
        self.register_buffer("table", torch.arange(dim) / dim, persistent=False)


class Class(nn.Module):
    """A token that an ancestor initialises through a function for all modules."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.token = nn.Parameter(torch.zeros(1, 4))

    def init_weights(self):
        self.token.data.fill_(7)
        self.inner.weight.data.fill_(3)


@pytest.mark.parametrize(
    "build", [b for b in ALL if b.__name__ not in ("frozen", "strided", "Masked")], ids=lambda b: b.__name__
)
def test_whole_models(build):
    model = on_meta(build)
    kept = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    target = survey(model)
    source = source_for(target)
    apply(model, target, plan_for(target, source), source, verify=compare_values)
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in source.tensors.items())
    assert not any(t.is_meta for t in state.values())
    assert kept == {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.bool, torch.float8_e4m3fn], ids=str
)
def test_each_tensor_that_comes_to_life_has_memory_of_its_own_size(dtype):
    """Saving one of several tensors in one large block would write the whole block."""
    model = nn.Module()
    for name, shape in (("large", (300, 5, 70)), ("turned", (400, 500)), ("small", (7,)), ("empty", (0, 3))):
        model.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))
    model.turned = model.turned.t()
    given = {name: torch.randn(value.shape).to(dtype) for name, value in model.state_dict().items()}
    tg.load(model, given)
    for name, value in model.state_dict().items():
        assert value.untyped_storage().nbytes() == value.nbytes
        assert value.contiguous().view(torch.uint8).equal(given[name].contiguous().view(torch.uint8))
    assert model.turned.stride() == (1, 500)


@pytest.mark.parametrize("error", [OSError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("build", [conv, Tied, TiedStorage], ids=lambda b: b.__name__)
def test_a_failure_leaves_meta_models_on_meta(build, error):
    model = on_meta(build)
    target = survey(model)
    before = fingerprint(model)
    random = torch.get_rng_state()
    for at in range(len(source_for(target).tensors)):
        source = source_for(target, fail_at=at, error=error)
        with pytest.raises((ApplyError, KeyboardInterrupt)):
            apply(model, target, plan_for(target, source), source)
        assert fingerprint(model) == before
    assert torch.equal(random, torch.get_rng_state())


def test_a_failed_check_takes_new_tensors_out_again():
    model = on_meta(Tied)
    target = survey(model)
    source = source_for(target)
    before = fingerprint(model)

    def interrupt(*_):
        assert not model.embed.weight.is_meta
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(model, target, plan_for(target, source), source, verify=interrupt)
    assert fingerprint(model) == before


def test_an_error_right_after_an_exchange_is_undone_too(monkeypatch):
    model = on_meta(Tied)
    target = survey(model)
    before = fingerprint(model)
    plain, made = torch.utils.swap_tensors, []

    def exchanging(one, other):
        plain(one, other)
        made.append(one)
        if len(made) == 2:
            raise MemoryError

    monkeypatch.setattr(torch.utils, "swap_tensors", exchanging)
    source = source_for(target)
    with pytest.raises(ApplyError, match="MemoryError"):
        apply(model, target, plan_for(target, source), source)
    assert len(made) == 4, "both are exchanged back"
    assert fingerprint(model) == before


class Counting(nn.Module):
    """A buffer of whole numbers of which resetting sets the first alone."""

    def __init__(self, kind):
        super().__init__()
        self.register_buffer("steps", torch.arange(5).to(kind))

    def reset_parameters(self):
        self.steps[0] = 0


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.float32])
def test_what_is_initialised_in_part_is_not_initialised(kind):
    model = on_meta(lambda: nn.Sequential(nn.Linear(2, 2), Counting(kind)))
    with pytest.raises(PlanRefusedError, match=r"1\.steps \[5\] is on the meta device"):
        tg.load(model, nn.Linear(2, 2), rename={"": "0."}, min_coverage=0)


def test_ties_stay_ties():
    one, two = on_meta(Tied), on_meta(TiedStorage)
    for model in (one, two):
        target = survey(model)
        source = source_for(target)
        apply(model, target, plan_for(target, source), source)
    assert one.head.weight is one.embed.weight
    assert one.again is one.body
    assert two.one.weight.data_ptr() == two.two.weight.data_ptr()


def test_fresh_slots_get_their_modules_own_values():
    model = on_meta(conv)
    target = survey(model)
    source = source_for(target)
    for name in ("1.weight", "1.running_var", "1.num_batches_tracked", "3.weight", "3.bias"):
        del source.tensors[name]
    done = apply(model, target, plan_for(target, source), source, verify=compare_values)
    assert set(done.initialised) == {"1.weight", "1.running_var", "1.num_batches_tracked", "3.weight", "3.bias"}
    assert model[1].weight.eq(1).all()
    assert model[1].running_var.eq(1).all()
    assert model[1].num_batches_tracked == 0
    assert 0 < model[3].weight.abs().max() <= 8**-0.5
    assert torch.equal(model[1].bias, source.tensors["1.bias"])
    assert isinstance(model[3].weight, nn.Parameter)


def test_ancestors_initialise_what_lies_below_and_nothing_else():
    model = on_meta(Class)
    target = survey(model)
    source = source_for(target)
    del source.tensors["token"]
    apply(model, target, plan_for(target, source), source)
    assert model.token.eq(7).all()
    assert torch.equal(model.inner.weight, source.tensors["inner.weight"])


def test_real_siblings_are_not_disturbed():
    model = Class()
    model.token = nn.Parameter(torch.empty(1, 4, device="meta"))
    before = model.inner.weight.detach().clone()
    target = survey(model)
    source = source_for(target)
    source.tensors = {"inner.bias": torch.ones(4)}
    apply(model, target, plan_for(target, source), source)
    assert model.token.eq(7).all()
    assert torch.equal(model.inner.weight, before)


def test_hidden_buffers_are_rebuilt_where_the_arguments_are_known():
    model = on_meta(lambda: nn.Sequential(Rotary(8), nn.Linear(2, 2)))
    target = survey(model)
    source = source_for(target)
    done = apply(model, target, plan_for(target, source), source)
    assert torch.equal(model[0].table, torch.arange(8) / 8)
    assert done.initialised == ("0.table",)


def test_what_nobody_can_initialise_is_refused_before_anything_changes():
    model = on_meta(lambda: nn.Sequential(Lost(8), nn.Linear(2, 2)))
    target = survey(model)
    source = source_for(target)
    before = fingerprint(model)
    with pytest.raises(
        PlanRefusedError, match=r"buffer 0\.table \[8\] is on the meta device.*\n  build the model on the CPU"
    ):
        apply(model, target, plan_for(target, source), source)
    assert source.reads == 0
    assert fingerprint(model) == before


def test_a_parameter_with_a_weak_reference_is_replaced():
    import weakref

    model = on_meta(lambda: nn.LSTM(3, 4))
    held = weakref.ref(model.weight_ih_l0)
    target = survey(model)
    source = source_for(target)
    apply(model, target, plan_for(target, source), source, verify=compare_values)
    assert held is not None
    assert torch.equal(model.weight_ih_l0, source.tensors["weight_ih_l0"])
    assert model(torch.ones(1, 1, 3))[0].isfinite().all()


def test_a_refused_load_into_a_model_on_meta_leaves_the_random_state_as_it_was():
    """What stays fresh is drawn before the values of the file are looked at."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    state = torch.get_rng_state()
    with pytest.raises(tg.PlanRefusedError, match="NaN"):
        tg.load(model, {"0.weight": torch.full((4, 3), float("nan")), "0.bias": torch.zeros(4)})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.is_meta for p in model.parameters())


class DrawnElsewhere(nn.Linear):
    """Draws its initial values from Python's and numpy's generators."""

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.fill_(random.random())  # noqa: S311  # no secret
            self.bias.fill_(np.random.rand())  # noqa: NPY002  # what such code calls


def test_a_refused_load_leaves_the_random_states_of_python_and_numpy_as_they_were():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), DrawnElsewhere(4, 2))
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  # as above
    with pytest.raises(tg.PlanRefusedError, match="NaN"):
        tg.load(model, {"0.weight": torch.full((4, 3), float("nan")), "0.bias": torch.zeros(4)})
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002  # as above


@pytest.mark.parametrize("place", ["meta", "cpu"])
def test_what_is_loaded_in_inference_mode_can_be_trained(place):
    with torch.device(place):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wanted = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    with torch.inference_mode():
        tg.load(model, wanted)
        assert torch.is_inference_mode_enabled()
    model(torch.randn(5, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
