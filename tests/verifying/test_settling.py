"""Doubt settled by numbers: runs of both models prove a plan, or correct it; nothing is left changed."""

import copy

import pytest
import torch
from faulty_models import ARCHITECTURES, randomised
from torch import nn

import torchgraft as tg
from torchgraft import Policy, Verdict


class Equal(nn.Module):
    """Five layers of one shape that are used in another order than they are registered in."""

    def __init__(self, names, order):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(8, 8))
        self.order = order

    def forward(self, x):
        for name in self.order:
            x = torch.tanh(self.get_submodule(name)(x))
        return x


class Gated(nn.Module):
    """A gate and a value of one shape, under names that tell nothing."""

    def __init__(self, first, second):
        super().__init__()
        self.add_module(first, nn.Linear(6, 10))
        self.add_module(second, nn.Linear(6, 10))
        self.out = nn.Linear(10, 3)
        self.gate, self.value = first, second

    def forward(self, x):
        gate, value = (self.get_submodule(name)(x) for name in (self.gate, self.value))
        return self.out(nn.functional.silu(gate) * value)


def equal_layers():
    source = Equal("abcde", "abcde")
    target = Equal(("u", "v", "w", "x", "y"), ("y", "u", "x", "w", "v"))
    return randomised(source), target, torch.randn(3, 8)


def gated():
    return randomised(Gated("a", "b")), Gated("second", "first"), torch.randn(4, 6)


def patches():
    """Return a convolution over patches, and a matrix on flat patches with the channels last."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(48, 16)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            x = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
            return self.head(self.embed(x).relu().mean(1))

    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 16, 4, stride=4)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.embed(x).relu().mean((2, 3)))

    return randomised(Conv()), Flat(), torch.randn(2, 3, 8, 8)


BUILDS = (equal_layers, gated, patches)


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("build", BUILDS)
def test_what_names_leave_open_is_settled(build):
    source, target, inputs = build()
    plain = tg.load(copy.deepcopy(target), source, on_doubt="take")
    assert not tg.verify(copy.deepcopy(target), source, inputs, plan=plain).passed
    report = tg.load(target, source, inputs=inputs)
    assert torch.allclose(target(inputs), source(inputs), atol=1e-6)
    assert report.plan.proof.passed
    assert not report.plan.doubtful
    assert any(check.name == "outputs" and check.passed for check in report.checks)
    assert "proved on 1 input" in str(report)


@pytest.mark.parametrize("build", BUILDS)
def test_a_plan_touches_nothing(build):
    source, target, inputs = build()
    target.train()
    before = values(source), values(target)
    plan = tg.plan(target, source, inputs=inputs)
    after = values(source), values(target)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(before, after, strict=True) for k in a)
    assert target.training
    tg.load(target, source, inputs=inputs)
    assert all(
        torch.equal(
            target.state_dict()[step.slot.name].double().sum(), target.state_dict()[step.slot.name].double().sum()
        )
        for step in plan.steps
    )


def test_what_is_proved_is_certain_and_says_so():
    source, target, inputs = ARCHITECTURES["vit"]()
    plan = tg.plan(target, source, inputs=[inputs(), inputs()])
    assert plan.proof.inputs == 2
    assert {step.certainty.value for step in plan.steps} == {"certain"}
    assert plan.steps[0].why.evidence[-1].startswith("proved on 2 inputs, max rel. diff")


def test_other_outputs_are_refused_and_can_be_accepted():
    source, target, inputs = gated()
    target.out = nn.Linear(10, 3, bias=False)
    before = values(target)
    with pytest.raises(tg.PlanRefusedError, match="outputs differ from the source's: max rel"):
        tg.load(target, source, inputs=inputs, on_doubt="take")
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())
    report = tg.load(target, source, inputs=inputs, on_doubt="take", policy=Policy(outputs=Verdict.WARN))
    assert not report.plan.proof.passed
    assert "outputs differ from the source's" in str(report)


def test_skipping_doubt_fills_what_was_proved():
    source, target, inputs = equal_layers()
    report = tg.load(target, source, inputs=inputs, on_doubt="skip", accept="certain")
    assert not report.plan.fresh
    assert torch.allclose(target(inputs), source(inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s, t: {"source_model": None}, "needs source_model="),
        (lambda s, t: {"source_model": randomised(Gated("a", "b"), 9)}, "holds other values than the checkpoint"),
        (lambda s, t: {"source_model": s, "inputs": torch.randn(2, 5)}, "source_model fails on input 0"),
        (lambda s, t: {"source_model": s, "inputs": []}, "inputs is empty"),
    ],
)
def test_what_makes_no_sense_is_said(change, said):
    source, target, inputs = gated()
    asked = {"inputs": inputs} | change(source, target)
    with pytest.raises(tg.UsageError, match=said):
        tg.load(target, source.state_dict(), **asked)


def test_a_model_on_meta_cannot_be_run():
    source, _, inputs = gated()
    with torch.device("meta"):
        target = Gated("x", "y")
    with pytest.raises(tg.UsageError, match="no values"):
        tg.plan(target, source, inputs=inputs)


class Tied(nn.Module):
    """An embedding that is also the last layer."""

    def __init__(self, rows):
        super().__init__()
        self.embed, self.mix, self.last = nn.Embedding(rows, 6), nn.Linear(6, 6), nn.Linear(6, rows, bias=False)
        self.last.weight = self.embed.weight

    def forward(self, x):
        return self.last(self.mix(self.embed(x)))


def test_what_is_skipped_for_doubt_has_a_fate_too():
    plan = tg.plan(
        Tied(12), randomised(Tied(10)), inputs=torch.randint(0, 10, (2, 4)), on_doubt="skip", accept="certain",
        policy=Policy(outputs=Verdict.WARN),
    )  # fmt: skip
    fates = [feed.key for step in plan.steps for feed in step.feeds] + [unused.spec.name for unused in plan.unused]
    assert sorted(fates) == sorted(plan.source_specs)


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("build", BUILDS)
def test_a_recorded_run_settles_what_names_leave_open(build, prefix, tmp_path):
    source, target, inputs = build()
    tg.record(source, inputs, tmp_path / "runs.safetensors")
    tg.save(tmp_path / "old.safetensors", {prefix + name: value for name, value in source.state_dict().items()})
    report = tg.load(target, tmp_path / "old.safetensors", golden=tmp_path / "runs.safetensors")
    assert torch.allclose(target(inputs), source(inputs), atol=1e-6)
    assert report.plan.proof.passed
    assert not report.plan.doubtful


def test_recorded_callables_need_inputs_of_the_models_own(tmp_path):
    source, target, inputs = equal_layers()
    tg.record(source, lambda net: net(inputs), tmp_path / "runs.safetensors")
    with pytest.raises(tg.UsageError, match="recorded as callables"):
        tg.plan(target, source.state_dict(), golden=tmp_path / "runs.safetensors")
    plan = tg.plan(target, source.state_dict(), golden=tmp_path / "runs.safetensors", inputs=inputs)
    assert plan.proof.passed


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"golden": 3}, "golden is an int: give the path"),
        ({"source_inputs": 3}, "source_inputs= can't be given beside it"),
        ({"inputs": [1, 2]}, "2 inputs, and 1 recorded runs"),
    ],
)
def test_what_makes_no_sense_beside_a_recorded_run_is_said(asked, said, tmp_path):
    source, target, inputs = gated()
    tg.record(source, inputs, tmp_path / "runs.safetensors")
    with pytest.raises(tg.UsageError, match=said):
        tg.load(target, source.state_dict(), **({"golden": tmp_path / "runs.safetensors"} | asked))


def test_a_run_with_other_weights_settles_nothing(tmp_path):
    source, target, inputs = gated()
    tg.record(randomised(Gated("a", "b"), 9), inputs, tmp_path / "runs.safetensors")
    before = values(target)
    with pytest.raises(
        tg.UsageError, match=r"recorded with other values than the checkpoint has, in a\.weight and 5 more"
    ):
        tg.load(target, source.state_dict(), golden=tmp_path / "runs.safetensors")
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


def test_a_file_that_holds_no_run_is_refused(tmp_path):
    source, target, _ = gated()
    tg.save(tmp_path / "old.safetensors", source.state_dict())
    with pytest.raises(tg.CheckpointError, match="holds no recorded runs"):
        tg.load(target, source.state_dict(), golden=tmp_path / "old.safetensors")
