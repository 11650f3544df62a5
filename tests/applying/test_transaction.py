"""All or nothing: whatever happens at whatever moment, the model is as it was or as it should be."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from applying_helpers import MemorySource, fingerprint, plan_for, source_for
from applying_models import ALL, Masked, Tied, channels_last, conv
from torch import nn

from torchgraft.applying import Manner, apply
from torchgraft.core.errors import ApplyError, CorruptCheckpointError, PlanRefusedError, UsageError
from torchgraft.core.policy import Policy, Verdict
from torchgraft.core.results.report import Check
from torchgraft.core.system.shield import Shield
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values

RAISED = {
    OSError: ApplyError,
    MemoryError: ApplyError,
    ZeroDivisionError: ApplyError,
    CorruptCheckpointError: CorruptCheckpointError,
    KeyboardInterrupt: KeyboardInterrupt,
    SystemExit: SystemExit,
}


@pytest.mark.parametrize("undo", ["keep", "check"])
@pytest.mark.parametrize("build", ALL, ids=lambda b: b.__name__)
def test_everything_arrives(build, undo):
    model = build()
    target = survey(model)
    source = source_for(target)
    kept = dict(model.named_parameters())
    done = apply(model, target, plan_for(target, source), source, verify=compare_values, manner=Manner(undo=undo))
    state = model.state_dict()
    assert all(torch.equal(state[key].cpu(), value) for key, value in source.tensors.items())
    assert all(p is kept[name] for name, p in model.named_parameters())
    assert all(check.passed for check in done.checks)
    assert done.bytes_read == sum(t.numel() * t.element_size() for t in source.tensors.values())


@pytest.mark.parametrize("error", RAISED, ids=lambda e: e.__name__)
@pytest.mark.parametrize("build", ALL, ids=lambda b: b.__name__)
def test_any_failing_read_leaves_the_model_as_it_was(build, error):
    model = build()
    target = survey(model)
    before = fingerprint(model)
    for at in range(len(source_for(target).tensors)):
        source = source_for(target, seed=1, fail_at=at, error=error)
        with pytest.raises(RAISED[error]):
            apply(model, target, plan_for(target, source), source, verify=compare_values)
        assert fingerprint(model) == before


@pytest.mark.parametrize("build", ALL, ids=lambda b: b.__name__)
def test_a_failed_check_puts_the_model_back(build):
    model = build()
    target = survey(model)
    source = source_for(target)
    before = fingerprint(model)
    with pytest.raises(ApplyError, match="put back"):
        apply(
            model, target, plan_for(target, source), source, verify=lambda *_: [Check("values", False, "one differs")]
        )
    assert fingerprint(model) == before


def test_the_error_names_the_slot_and_the_cause():
    model = conv()
    target = survey(model)
    source = source_for(target, fail_at=0)
    text = r"^0\.weight \.\.\. 3\.bias: OSError: injected; the model was put back as it was$"
    with pytest.raises(ApplyError, match=text) as caught:
        apply(model, target, plan_for(target, source), source)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_during_reading_arrives_after_the_model_was_put_back():
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)])
    target = survey(model)
    before = fingerprint(model)
    source = source_for(target)
    plain = source.read_into

    def interrupted(network, key, buffer, start=0):
        if key == "7.weight":
            os.kill(os.getpid(), signal.SIGINT)
        plain(network, key, buffer, start)

    source.read_into = interrupted
    with pytest.raises(KeyboardInterrupt):
        apply(model, target, plan_for(target, source), source)
    assert fingerprint(model) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_helpers_are_gone_after_a_failure_and_large_models_come_back_too():
    model = nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(4)])
    target = survey(model)
    before, running = fingerprint(model), set(threading.enumerate())
    for at in (0, 3, 9):
        source = source_for(target, fail_at=at)
        with pytest.raises(ApplyError):
            apply(model, target, plan_for(target, source), source)
        assert fingerprint(model) == before
        assert not [t for t in set(threading.enumerate()) - running if t.name.startswith("torchgraft")]


def test_optimizer_and_views_see_the_new_values():
    model = conv()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    view = model[3].weight.view(-1)
    target = survey(model)
    source = source_for(target)
    apply(model, target, plan_for(target, source), source)
    assert torch.equal(optimizer.param_groups[0]["params"][0], source.tensors["0.weight"])
    assert torch.equal(view, source.tensors["3.weight"].view(-1))


def test_memory_of_the_source_is_never_shared():
    model = channels_last()
    target = survey(model)
    source = source_for(target)
    given = {key: value.clone() for key, value in source.tensors.items()}
    apply(model, target, plan_for(target, source), source)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(source.tensors[key], value) for key, value in given.items())


def test_layout_type_flags_and_gradients_stay():
    model = channels_last().to(torch.float64)
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    target = survey(model)
    source = MemorySource({k: v.float() if v.is_floating_point() else v for k, v in conv().state_dict().items()})
    apply(model, target, plan_for(target, source), source, verify=compare_values)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.dtype is torch.float64
    assert not model[0].weight.requires_grad
    assert model[3].weight.requires_grad
    assert model[3].weight.grad.sum() == model[3].weight.numel()


def test_autograd_is_told_about_the_change():
    model = nn.Linear(3, 3)
    loss = (model(torch.ones(1, 3)) * model.weight).sum()
    target = survey(model)
    source = source_for(target)
    apply(model, target, plan_for(target, source), source)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_all_odd_values_are_refused_at_once():
    model = conv()
    target = survey(model)
    source = source_for(target)
    source.tensors["0.weight"][0, 0, 0, 0] = float("nan")
    source.tensors["3.bias"][1] = float("inf")
    before = fingerprint(model)
    with pytest.raises(PlanRefusedError) as caught:
        apply(model, target, plan_for(target, source), source)
    assert [o.names for o in caught.value.objections] == [("0.weight",), ("3.bias",)]
    assert "0.weight [8, 3, 3, 3] would get 1 NaN value from 0.weight" in str(caught.value)
    assert fingerprint(model) == before


def test_odd_values_pass_with_a_word_or_without():
    model = conv()
    target = survey(model)
    source = source_for(target)
    source.tensors["3.bias"][1] = float("-inf")
    warn = apply(model, target, plan_for(target, source, Policy(nonfinite=Verdict.WARN)), source)
    assert [o.kind for o in warn.notes] == ["nonfinite"]
    accept = apply(model, target, plan_for(target, source, Policy(nonfinite=Verdict.ACCEPT)), source)
    assert accept.notes == ()


def test_infinite_buffers_are_usual_but_nan_is_not():
    model = Masked()
    target = survey(model)
    source = source_for(target)
    source.tensors["mask"] = torch.full((3, 3), float("-inf"))
    apply(model, target, plan_for(target, source), source)
    source.tensors["mask"][0, 0] = float("nan")
    with pytest.raises(PlanRefusedError, match="1 NaN"):
        apply(model, target, plan_for(target, source), source)


def test_overflow_in_a_cast_is_refused_and_rounding_is_not():
    model = nn.Linear(4, 4).half()
    target = survey(model)
    source = MemorySource({"weight": torch.full((4, 4), 1 / 3), "bias": torch.zeros(4)})
    apply(model, target, plan_for(target, source), source)
    source.tensors["weight"][0, :2] = 1e6
    before = fingerprint(model)
    with pytest.raises(PlanRefusedError, match="weight is float16, and 2 of its 16 values, float32"):
        apply(model, target, plan_for(target, source), source)
    assert fingerprint(model) == before


def test_integers_that_do_not_fit_are_refused():
    model = nn.Module()
    model.register_buffer("count", torch.zeros(3, dtype=torch.int8))
    target = survey(model)
    source = MemorySource({"count": torch.tensor([1, 2, 300])})
    with pytest.raises(PlanRefusedError, match="count is int8, and 1 of its 3"):
        apply(model, target, plan_for(target, source), source)


def test_a_model_changed_since_its_plan_is_refused():
    model = Tied()
    target = survey(model)
    source = source_for(target)
    model.body = nn.Linear(6, 7)
    with pytest.raises(UsageError, match="plan again"):
        apply(model, target, plan_for(target, source), source)


def test_a_plan_with_the_wrong_shape_fails_and_rolls_back():
    model = nn.Linear(4, 4)
    target = survey(model)
    source = MemorySource({"weight": torch.ones(4, 4), "bias": torch.ones(5)})
    before = fingerprint(model)
    with pytest.raises(ApplyError, match=r"bias: the plan gives \[5\], the slot takes \[4\]"):
        apply(model, target, plan_for(target, source), source)
    assert fingerprint(model) == before


class Alarm(BaseException):
    pass


@pytest.mark.parametrize("at", range(12))
def test_signals_get_their_handlers_back_even_if_one_comes_while_they_change_hands(monkeypatch, at):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGALRM, lambda *_: None)
    mine = {number: signal.getsignal(number) for number in handlers}
    real, left = signal.signal, [at]

    def interrupted(number, handler):
        left[0] -= 1
        if left[0] == -1:
            raise Alarm
        return real(number, handler)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", interrupted)
            try:
                with Shield():
                    pass
            except Alarm:
                pass
        assert {number: signal.getsignal(number) for number in handlers} == mine
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
