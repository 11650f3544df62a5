"""Slots are what the model's state dict holds, once per storage, under the state dict's own names."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.surveying import survey, target_from_specs


def names(target):
    return sorted(name for slot in target.slots if slot.persistent for name in slot.names)


def models():
    shared = nn.Linear(3, 3)
    yield nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2))
    yield nn.DataParallel(nn.Linear(2, 2))
    yield nn.ModuleDict({"a": shared, "b": shared})
    yield nn.MultiheadAttention(8, 2)
    yield nn.LSTM(3, 4)
    yield nn.ParameterList([torch.zeros(2), torch.zeros(3)])
    yield parametrizations.weight_norm(nn.Conv1d(2, 3, 3))
    yield nn.utils.spectral_norm(nn.Linear(3, 3))
    yield torch.compile(nn.Linear(2, 2))


@pytest.mark.parametrize("model", models(), ids=lambda m: type(m).__name__)
def test_names_are_those_of_the_state_dict(model):
    assert names(survey(model)) == sorted(model.state_dict())


def test_slots_state_the_facts():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    slots = {slot.name: slot for slot in survey(model).slots}
    assert slots["0.weight"].spec == TensorSpec("0.weight", (2, 3), DType.F32)
    assert (slots["0.weight"].owner, slots["0.weight"].kind) == ("0", "Linear")
    assert slots["1.running_mean"].is_buffer
    assert slots["1.num_batches_tracked"].spec.dtype is DType.I64
    assert [slot.order for slot in slots.values()] == list(range(len(slots)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_ties_are_one_slot(device):
    with torch.device(device):
        model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5), "other": nn.Linear(3, 5)})
        model["head"].weight = model["embed"].weight
        model["other"].weight = nn.Parameter(model["embed"].weight.data)
    slots = {slot.name: slot for slot in survey(model).slots}
    assert slots["embed.weight"].aliases == ("head.weight", "other.weight")
    assert survey(model).is_meta == (device == "meta")


def test_views_of_one_storage_are_not_ties():
    flat = torch.zeros(8)
    model = nn.ParameterDict(
        {"a": nn.Parameter(flat[:4]), "b": nn.Parameter(flat[4:]), "c": nn.Parameter(flat[:4].view(2, 2))}
    )
    assert [slot.aliases for slot in survey(model).slots] == [(), (), ()]


def test_empty_tensors_are_no_ties():
    model = nn.ParameterDict({"a": nn.Parameter(torch.empty(0)), "b": nn.Parameter(torch.empty(0))})
    assert len(survey(model).slots) == 2


def test_hidden_buffers_are_marked():
    model = nn.Module()
    model.register_buffer("seen", torch.zeros(1))
    model.register_buffer("hidden", torch.zeros(1), persistent=False)
    model.register_buffer("none", None)
    assert {slot.name: slot.persistent for slot in survey(model).slots} == {"seen": True, "hidden": False}


def test_parametrized_modules_keep_their_base_name():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(2, 3, 3)))
    target = survey(model)
    assert target.classes["0"] == "Conv1d"
    assert {slot.kind for slot in target.slots} == {"Conv1d"}


def test_hooks_that_rename_are_followed():
    model = nn.Sequential(nn.Linear(2, 2))

    def rename(module, state, prefix, metadata):
        for key in list(state):
            state["net." + key] = state.pop(key)

    model._register_state_dict_hook(rename)
    assert names(survey(model)) == ["net.0.bias", "net.0.weight"]


def test_buffers_that_hooks_drop_are_hidden_and_parameters_are_parameters_all_the_same():
    model = nn.Linear(2, 2)
    model.register_buffer("mean", torch.zeros(2))

    def drop(module, state, prefix, metadata):
        del state[prefix + "bias"], state[prefix + "mean"]

    model._register_state_dict_hook(drop)
    assert {slot.name: slot.persistent for slot in survey(model).slots} == {"weight": True, "bias": True, "mean": False}


class Own(nn.Module):
    """A state dict of its own, made by `make` from that of the inner module."""

    def __init__(self, make):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.make = make

    def state_dict(self, *args, **kwargs):
        return self.make(self.inner, *args, **kwargs)


def test_detached_tensors_are_known_by_their_memory_and_copies_by_their_names():
    assert names(survey(Own(lambda inner, **_: inner.state_dict()))) == ["bias", "weight"]
    assert names(survey(Own(lambda inner: dict(inner.state_dict())))) == ["bias", "weight"]
    model = nn.Sequential(nn.Linear(2, 2))
    model._register_state_dict_hook(lambda m, state, *_: {k: v.clone() for k, v in state.items()})
    assert names(survey(model)) == ["0.bias", "0.weight"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda inner, **_: 1 / 0,
            r"state_dict\(\) of Own fails, so its tensors have no names \(ZeroDivisionError: division",
        ),
        (lambda inner, **_: None, r"state_dict\(\) of Own gives a NoneType; a dictionary is needed"),
    ],
)
def test_a_state_dict_that_fails_is_said_to(make, said):
    with pytest.raises(UsageError, match=said):
        survey(Own(make))


def test_a_module_inside_itself_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model.again = model
    with pytest.raises(UsageError, match=r"the modules of the model never end .*: one is registered inside itself"):
        survey(model)


def test_extra_state_is_no_tensor_slot():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return torch.ones(3)

        def set_extra_state(self, state):
            pass

    assert names(survey(Extra(2, 2))) == ["bias", "weight"]


def test_lazy_modules_are_refused_with_the_remedy():
    with pytest.raises(
        UsageError, match=r"weight of the model has no shape yet \(LazyLinear is lazy\): run one forward"
    ):
        survey(nn.LazyLinear(3))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused_with_the_remedy(layout):
    model = nn.Linear(2, 2)
    model.register_buffer("ragged", torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(3, 3)], layout=layout))
    with pytest.raises(UsageError, match=r"ragged of the model is a nested tensor, which has no shape"):
        survey(model)


def test_a_conjugate_is_no_tie():
    model = nn.ParameterDict({"w": nn.Parameter(torch.ones(3, dtype=torch.complex64))})
    model.register_buffer("back", model["w"].detach().conj())
    assert [slot.aliases for slot in survey(model).slots] == [(), ()]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore::DeprecationWarning")
def test_scripted_and_traced_modules_are_modules():
    plain = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for model in (torch.jit.script(plain), torch.jit.trace(plain.eval(), torch.zeros(2, 3))):
        assert names(survey(model)) == sorted(plain.state_dict())


def test_another_checkpoint_as_target():
    specs = {name: TensorSpec(name, (2,), DType.F32) for name in ("a.w", "b.w", "c.w")}
    target = target_from_specs(specs, {"c.w": "a.w"})
    assert [(s.name, s.aliases, s.owner, s.kind) for s in target.slots] == [
        ("a.w", ("c.w",), "a", ""),
        ("b.w", (), "b", ""),
    ]


def test_importing_does_not_import_torch():
    code = "import sys, torchgraft.surveying; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
