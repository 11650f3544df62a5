"""A model built with its checkpoint is the one that was built and then loaded, without the work in between."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import torchgraft as tg


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.register_buffer("steps", torch.arange(4), persistent=False)
        self.head = nn.Linear(8, classes)
        self.again = self.head


class Computes(nn.Module):
    """A constructor that computes, tensors that no checkpoint reaches, and a tie made by hand."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, int(torch.ones(3).sum().item()))
        self.tables = {"scale": [torch.full((3,), 2.0)]}
        both = nn.Parameter(torch.randn(2))
        self.one, self.two = both, both


class Needs(nn.Module):
    """A constructor that looks at its parameters."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self.bound = float(self.lin.weight.abs().max())


class Keeps(nn.Module):
    """A tensor that is made from a parameter and is none."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self.tables = {"norms": [self.lin.weight.detach().norm(dim=0)]}


class Bare(nn.Module):
    """A parameter whose initial values nothing but the constructor knows."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self.token = nn.Parameter(torch.randn(2, 5))


class Copied(nn.Module):
    """A parameter that begins as a part of another one."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self.token = nn.Parameter(torch.zeros(2, 4))
        with torch.no_grad():
            self.token.copy_(self.lin.weight[:2])


class Scaled(nn.Module):
    """A parameter that is scaled by the values of another one, which torch skips silently where that has none."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self.new = nn.Linear(4, 3)
        with torch.no_grad():
            self.new.weight.fill_(1).mul_(self.lin.weight.norm())


class Begun(nn.Module):
    """Layers that begin with other values than their own method gives them: in the constructor, and in what follows it."""

    def __init__(self, classes=3):
        super().__init__()
        self.lin, self.zero, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, classes)
        nn.init.zeros_(self.zero.weight)
        self.zero.bias.data.fill_(7)
        self.gamma = nn.Parameter(0.1 * torch.ones(4))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.data.mul_(2)


def begun():
    model = Begun()
    with torch.no_grad():
        model.gamma.add_(1)
    return model


def test_it_equals_building_and_loading(tmp_path):
    old = Net().state_dict()
    torch.save(old, tmp_path / "m.pt")
    model, report = tg.build(Net, tmp_path / "m.pt")
    assert all(torch.equal(value, old[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.steps, torch.arange(4))
    assert model.again.weight is model.head.weight
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert report.cost.undo_bytes == sum(t.numel() * t.element_size() for t in model.body[1].buffers())
    assert not report.plan.notes
    model.head(torch.randn(1, 8)).sum().backward()


def test_only_what_stays_fresh_is_initialised(monkeypatch):
    drawn, plain = set(), nn.init.kaiming_uniform_

    def counting(tensor, **settings):
        if not tensor.is_meta:
            drawn.add(tuple(tensor.shape))
        return plain(tensor, **settings)

    old = Net().state_dict()
    monkeypatch.setattr(nn.init, "kaiming_uniform_", counting)
    model, report = tg.build(lambda: Net(7), old)
    assert drawn == {(7, 8)}
    assert set(report.initialised) == {"head.weight", "head.bias"}
    assert 0 < model.head.weight.abs().max() <= 8**-0.5
    assert torch.equal(model.body[0].weight, old["body.0.weight"])


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Needs, "its code needs values (RuntimeError: "),
        (Keeps, "it keeps a tensor, tables['norms'][0], that is made from parameters and is none itself"),
        (Copied, "token is initialised by code that can't run while other parameters have no values"),
        (Scaled, "new.weight is initialised by code that can't run while other parameters have no values"),
    ],
)
def test_what_needs_values_is_made_with_them_and_says_so(made, reason):
    old = made()
    with torch.no_grad():
        old.lin.weight.fill_(5)
    model, report = tg.build(made, {"lin.weight": old.lin.weight, "lin.bias": old.lin.bias}, min_coverage=0)
    assert any(note.startswith("the model was made with all its values first: " + reason) for note in report.plan.notes)
    assert torch.equal(model.lin.weight, old.lin.weight)
    assert all(not t.is_meta for t in (*model.parameters(), *model.buffers()))


def test_what_stays_fresh_begins_as_the_constructor_leaves_it():
    old = {"lin.weight": torch.randn(4, 4), "lin.bias": torch.randn(4)}
    torch.manual_seed(0)
    model, report = tg.build(begun, old, min_coverage=0)
    assert set(report.initialised) == {n for n in model.state_dict() if not n.startswith("lin")}
    assert not report.plan.notes
    assert torch.equal(model.lin.weight, old["lin.weight"])
    assert not model.zero.weight.any()
    assert bool((model.zero.bias == 7).all())
    assert torch.allclose(model.gamma, torch.full((4,), 1.1))
    assert 0.5 < model.head.weight.abs().max() <= 1, "twice as far as a layer's own method goes"
    assert isinstance(model.gamma, nn.Parameter)
    assert (
        tg.build(Bare, old | {"lin.weight": torch.ones(3, 4), "lin.bias": torch.ones(3)}, min_coverage=0)[0].token.std()
        > 0
    )


def test_rows_that_are_new_begin_as_the_constructor_leaves_them():
    def table():
        model = nn.Sequential(nn.Embedding(6, 2))
        nn.init.constant_(model[0].weight, 3)
        return model

    model, report = tg.build(table, {"0.weight": torch.arange(8.0).reshape(4, 2)}, grow_rows=["0.weight"])
    assert torch.equal(model[0].weight[:4], torch.arange(8.0).reshape(4, 2))
    assert bool((model[0].weight[4:] == 3).all())
    assert report.initialised == ("0.weight",)


def test_constructors_may_compute():
    old = Computes()
    model, report = tg.build(Computes, old.state_dict())
    assert not report.plan.notes
    assert torch.equal(model.tables["scale"][0], torch.full((3,), 2.0))
    assert model.one is model.two
    assert torch.equal(model.one, old.one)
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_a_recurrent_module_runs_on_the_weights_it_was_given():
    old = nn.LSTM(3, 4)
    model, report = tg.build(lambda: nn.LSTM(3, 4), old.state_dict())
    assert not report.plan.notes
    given = torch.randn(5, 1, 3)
    assert torch.equal(model(given)[0], old(given)[0])


def test_a_failed_attempt_draws_nothing():
    torch.manual_seed(3)
    model, _ = tg.build(Needs, {"lin.weight": torch.zeros(3, 4)}, min_coverage=0)
    torch.manual_seed(3)
    assert torch.equal(model.lin.bias, Needs().lin.bias)


def test_refusals_and_mistakes_are_those_of_load():
    with pytest.raises(tg.UsageError, match=r"the factory gives a dict; an nn\.Module is needed"):
        tg.build(dict, {"w": torch.zeros(1)})
    with pytest.raises(tg.PlanRefusedError, match="no match"):
        tg.build(Net, {"w": torch.zeros(77)})
    with pytest.raises(tg.UsageError):
        tg.build(Net, Net().state_dict(), on_doubt="maybe")


def test_buffers_go_to_the_device_as_well(monkeypatch):
    moved = []

    def to(self, device):
        assert not any(p.is_meta for p in self.parameters())
        moved.append((self, device))

    monkeypatch.setattr(nn.Module, "to", to)
    model, _ = tg.build(Net, Net().state_dict(), device="cpu")
    assert moved == [(model, "cpu")]


def test_models_built_at_the_same_time_leave_no_trace():
    """The first to begin ends first: what it found must not be put back while the second builds."""
    plain = nn.Module.register_parameter
    saved = Net().state_dict()
    begun, joined = threading.Event(), threading.Event()
    built = []

    def first():
        begun.set()
        joined.wait(60)
        return Net()

    def second():
        joined.set()
        threads[0].join(60)
        built.append(torch.nn.Linear(2, 2).weight.is_meta)
        return Net()

    def build_second():
        begun.wait(60)
        tg.build(second, saved)

    threads = [threading.Thread(target=lambda: tg.build(first, saved)), threading.Thread(target=build_second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert nn.Module.register_parameter is plain
    assert built == [True]
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("needs_values", [False, True])
def test_it_takes_what_load_takes(needs_values):
    def made():
        model = nn.Linear(4, 3)
        if needs_values:
            model.weight.tolist()
        return model

    saved = {"weight": torch.randn(3, 4), "bias": torch.randn(3)}
    told = []
    plan = tg.plan(nn.Linear(4, 3), saved)
    model, _ = tg.build(made, saved, plan=plan, undo="keep", progress=lambda *how_far: told.append(how_far))
    assert torch.equal(model.weight, saved["weight"])
    assert told[-1] == (60, 60)
    for wrong in ({"undo": "never"}, {"prefault": True}, {"progress": 3}, {"plan": 3}):
        with pytest.raises(tg.UsageError, match=next(iter(wrong))):
            tg.build(made, saved, **wrong)
    with pytest.raises(TypeError, match=r"^build\(\) got an unexpected keyword argument 'progres'"):
        tg.build(made, saved, progres=print)
