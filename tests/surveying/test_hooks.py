"""The model's own loading code says what old keys are called now, and is left no way to change the model."""

from __future__ import annotations

import signal
import sys

import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from torchgraft.core.dtypes import DType
from torchgraft.core.specs import TensorSpec
from torchgraft.surveying import Renames, rename_by_hooks


def specs(state):
    return {k: TensorSpec(k, tuple(v.shape), DType.of(str(v.dtype))) for k, v in state.items()}


def snapshot(model):
    tensors = [(id(t), t._version, t.clone()) for t in (*model.parameters(), *model.buffers())]
    return tensors, [{k: id(v) for k, v in m.__dict__.items()} for m in model.modules()]


def same(one, two):
    return one[1] == two[1] and all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(one[0], two[0], strict=True)
    )


class Hooked(nn.Module):
    def __init__(self, hook):
        super().__init__()
        self.lin = nn.Linear(2, 3)
        self.register_buffer("steps", torch.zeros(1))
        self.register_load_state_dict_pre_hook(hook)


def test_plain_models_have_nothing_to_say():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert rename_by_hooks(model, specs(model.state_dict())) == Renames()


def test_weight_norm_knows_its_old_names():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(2, 3, 3)))
    old = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 3, 3))).state_dict()
    found = rename_by_hooks(model, specs(old))
    assert found.renames == {
        "0.weight_g": "0.parametrizations.weight.original0",
        "0.weight_v": "0.parametrizations.weight.original1",
    }


def test_versions_decide_what_is_old():
    model = torchvision.models.vision_transformer.MLPBlock(4, 8, 0.0)
    old = {"linear_1.weight": torch.zeros(8, 4), "linear_1.bias": torch.zeros(8), "linear_2.weight": torch.zeros(4, 8)}
    found = rename_by_hooks(model, specs(old), {"": {"version": 1}})
    assert found.renames == {"linear_1.weight": "0.weight", "linear_1.bias": "0.bias", "linear_2.weight": "3.weight"}
    assert rename_by_hooks(model, specs(old), {"": {"version": 2}}) == Renames()


def test_computed_values_are_noted_and_dropped_keys_listed():
    def hook(module, state, prefix, *_):
        state[prefix + "lin.weight"] = state.pop(prefix + "old").t()
        del state[prefix + "junk"]

    found = rename_by_hooks(Hooked(hook), specs({"old": torch.zeros(2, 3), "junk": torch.zeros(1)}))
    assert found.renames == {}
    assert "junk" in found.dropped
    assert "computes lin.weight" in found.notes[0]


def test_code_that_fails_is_noted_and_changes_nothing():
    def hook(module, state, prefix, *_):
        state.clear()
        raise KeyError("nope")

    found = rename_by_hooks(Hooked(hook), specs({"lin.weight": torch.zeros(3, 2)}))
    assert found.renames == {}
    assert "the loading code of the model (Hooked) could not be followed" in found.notes[0]


def test_code_that_changes_the_model_changes_nothing():
    def hook(module, state, prefix, *_):
        module.lin.weight.data.fill_(9)
        module.steps += 1
        module.lin = nn.Linear(7, 7)
        module.extra = 3
        state[prefix + "lin.bias"] = state.pop(prefix + "b")

    model = Hooked(hook)
    before = snapshot(model)
    found = rename_by_hooks(model, specs({"b": torch.zeros(3)}))
    assert found.renames == {"b": "lin.bias"}
    assert same(before, snapshot(model))
    assert not hasattr(model, "extra")


class Noting(nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
        self.log, self.config, self.seen, self.lost = (
            [],
            {"runs": {"count": [0]}},
            torch.zeros(2),
            torch.tensor(torch.nan),
        )

    def _load_from_state_dict(self, *args, **kwargs):
        self.log.append(args[1])
        self.config["runs"]["count"][0] += 1
        self.seen += 1
        super()._load_from_state_dict(*args, **kwargs)


def test_code_that_adds_to_what_the_model_holds_adds_to_a_copy():
    model = Noting()
    held = model.log, model.config, model.seen
    found = rename_by_hooks(model, specs(model.state_dict()))
    assert (model.log, model.config, model.seen.tolist()) == ([], {"runs": {"count": [0]}}, [0, 0])
    assert all(now is before for now, before in zip((model.log, model.config, model.seen), held, strict=True))
    assert [note.split()[6] for note in found.notes] == ["log", "config", "seen"]


def test_a_hook_that_removes_itself_is_there_for_the_real_load():
    model = nn.Linear(2, 3)
    handle = model.register_load_state_dict_pre_hook(lambda *_: handle.remove())
    assert rename_by_hooks(model, specs(model.state_dict())) == Renames()
    assert len(model._load_state_dict_pre_hooks) == 1


def test_a_signal_at_any_line_leaves_the_model_and_gradients_as_they_were():
    ran = []
    model = nn.Sequential(Hooked(lambda _, state, *rest: ran.append(len(state))), nn.BatchNorm1d(3))
    before, old = snapshot(model), specs(model.state_dict())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    left = 0

    def trace(frame, event, _):
        nonlocal left
        if not frame.f_code.co_filename.endswith(("surveying/hooks.py", "grad_mode.py", "core/system/shield.py")):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    interrupted = 0
    try:
        for at in range(1, 1000):
            left = at
            try:
                sys.settrace(trace)
                rename_by_hooks(model, old)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                sys.settrace(None)
            assert torch.is_grad_enabled(), at
            assert same(before, snapshot(model)), at
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, at
            if left > 0:
                break
    finally:
        signal.signal(signal.SIGINT, handler)
        torch.set_grad_enabled(True)
    assert left > 0
    assert interrupted > 50
    assert ran
