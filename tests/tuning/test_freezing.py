"""Frozen means: no gradient, no drift of statistics, however train() is called; and undo is exact."""

import copy
import gc
import io
import itertools
import re
from fnmatch import fnmatchcase
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from tuning_models import Net, fate_lists, made, nets, step

import torchgraft as tg
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Report
from torchgraft.surveying import survey
from torchgraft.tuning import freeze
from torchgraft.tuning.eval_mode import is_kept_in_eval
from torchgraft.tuning.fates import ModelTensor


def state_of(model):
    """Return all that freeze may change."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: (m.training, "train" in vars(m)) for name, m in model.named_modules()}
    return flags, modes, {name: p.grad for name, p in model.named_parameters()}


def one_step(model):
    model.train()
    out = model(torch.randn(8, 4)).square().sum()
    if out.requires_grad:
        out.backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()


@settings(max_examples=25, deadline=None)
@given(nets, fate_lists, st.sampled_from(("loaded", "all_but_fresh")), st.sampled_from(("skip", "freeze")))
def test_what_the_plan_filled_is_frozen_and_nothing_else(model, fates, what, partly):
    plan = made(fates, model)
    wanted = {"loaded", "turned", "adapted"} | ({"constant"} if what == "all_but_fresh" else set())
    wanted |= {"partly"} if partly == "freeze" else set()
    slots = survey(model).slots
    expected = {s.name for at, s in enumerate(slots) if not s.is_buffer and fates[at % len(fates)] in wanted}
    before = state_of(model)
    if not expected:
        with pytest.raises(UsageError, match="nothing to freeze"):
            freeze(model, plan, what, partly=partly)
    else:
        frozen = freeze(model, plan, what, partly=partly)
        assert set(frozen.names) == expected
        flags = {name: p.requires_grad for name, p in model.named_parameters()}
        assert {name for name, flag in flags.items() if not flag} == expected
        frozen.undo()
    assert state_of(model) == before


@settings(max_examples=15, deadline=None)
@given(nets, fate_lists)
def test_training_moves_only_what_is_left(model, fates):
    plan = made(["loaded", *fates], model)
    frozen = freeze(model, plan)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one_step(model)
    after = model.state_dict()
    quiet = set(frozen.names) | {
        f"{m}.{b}" for m in frozen.modules for b in ("running_mean", "running_var", "num_batches_tracked")
    }
    names = {
        n: n2 for n, p in model.named_parameters(remove_duplicate=False) for n2, q in model.named_parameters() if p is q
    }
    for name, value in after.items():
        if names.get(name, name) in quiet:
            assert torch.equal(value, before[name]), name
    moved = {m for m, mod in model.named_modules() if isinstance(mod, nn.BatchNorm1d)} - set(frozen.modules)
    assert all(not torch.equal(after[f"{m}.running_mean"], before[f"{m}.running_mean"]) for m in moved)


def test_undo_gives_gradients_and_modes_back():
    model = Net(1)
    model.blocks[0].fc1.requires_grad_(False)
    model.blocks[0].bn.eval()
    model(torch.randn(4, 4)).sum().backward()
    before = state_of(model)
    frozen = freeze(model, made(["loaded"], model), dropout="off")
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert "evaluation mode" in repr(frozen)
    frozen.undo()
    frozen.undo()
    assert state_of(model) == before


def test_undo_follows_a_mode_that_changed_meanwhile():
    model = Net(1)
    frozen = freeze(model, modules=["blocks"])
    model.eval()
    frozen.undo()
    assert not any(m.training for m in model.modules())
    model.train()
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: torch.load(_saved(m), weights_only=False)])
def test_copies_and_pickles_stay_still_on_their_own(copied):
    model = Net(1)
    freeze(model, modules=["blocks.0"])
    twin = copied(model)
    assert is_kept_in_eval(twin.blocks[0].bn)
    twin.train()
    assert twin.blocks[0].bn.training is False
    assert twin.norm.training
    model.blocks[0].bn.training = True
    twin.train()
    assert model.blocks[0].bn.training is True
    assert twin.blocks[0].bn.train() is twin.blocks[0].bn


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_modules_by_name_take_all_in_them_and_dropout_on_request():
    model = Net(2)
    frozen = freeze(model, modules=["blocks", "norm"], dropout="off")
    model.train()
    assert all(name.startswith("blocks.") for name in frozen.names)
    assert set(frozen.modules) >= {"blocks", "norm"}
    assert not any(m.training for m in model.blocks.modules())
    assert model.training
    assert model.stem.training


def test_modules_beside_a_report_freeze_nothing_else():
    model = Net(2)
    frozen = freeze(model, made(["loaded"], model), modules=["blocks.0"])
    assert {name.rpartition(".")[0].split(".")[1] for name in frozen.names} == {"0"}
    assert model.head.weight.requires_grad
    frozen = freeze(model, made(["loaded"], model), modules=["blocks.0"], patterns=["stem"])
    assert {"stem.weight", "stem.bias"} <= set(frozen.names)
    assert model.head.weight.requires_grad


def test_dropout_goes_on_unless_asked():
    model = Net(1)
    freeze(model, modules=["blocks"])
    model.train()
    assert model.blocks[0].drop.training
    assert not model.blocks[0].bn.training


def test_patterns_narrow_the_report_down():
    model = Net(2)
    plan = made(["loaded"], model)
    frozen = freeze(model, Report(plan=plan), patterns=["blocks.0.*", re.compile(r"blocks\.1\.fc\d\.bias")])
    assert set(frozen.names) == {n for n, _ in model.named_parameters() if n.startswith("blocks.0.")} | {
        "blocks.1.fc1.bias",
        "blocks.1.fc2.bias",
    }
    assert frozen.modules == ("blocks.0.bn",)


def test_patterns_alone_still_the_norms_they_cover():
    model = Net(1)
    frozen = freeze(model, patterns=["*.weight", "*.bias"])
    assert frozen.modules == ("blocks.0.bn",)


def test_tensors_filled_in_part_train_on_and_are_named():
    model = Net(0)
    slots = survey(model).slots
    plan = Plan(steps=tuple(step(s, "partly" if s.name == "head.weight" else "loaded") for s in slots))
    frozen = freeze(model, plan)
    assert "head.weight" in frozen.left
    assert model.head.weight.requires_grad
    assert not model.head.bias.requires_grad


def test_statistics_that_the_checkpoint_lacks_move_on():
    model = Net(1)
    slots = survey(model).slots
    plan = Plan(steps=tuple(step(s, "fresh" if "running" in s.name else "loaded") for s in slots))
    frozen = freeze(model, plan)
    assert frozen.modules == ()
    assert "blocks.0.bn.running_mean" in frozen.left


def test_a_missing_counter_alone_lets_no_statistics_move():
    model = Net(1)
    steps = tuple(step(s, "fresh" if "batches" in s.name else "loaded") for s in survey(model).slots)
    assert set(freeze(model, Plan(steps=steps)).modules) == {"blocks.0.bn", "norm"}


def test_spectral_norm_stands_still():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    freeze(model, modules=["0"])
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(3, 4))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (freeze, "give the report"),
        (lambda m: freeze(m, modules=["bloks"]), "did you mean 'blocks'"),
        (lambda m: freeze(m, modules="blocks"), "give a list"),
        (lambda m: freeze(m, patterns=["*.gamma"]), "no parameter and no module"),
        (lambda m: freeze(m, made(["loaded"], m), "everything"), "use one of 'loaded'"),
        (lambda m: freeze(m, made(["loaded"], m), partly="maybe"), "partly='maybe'"),
        (lambda m: freeze(m, made(["loaded"], nn.ModuleDict({"x": Net(1)}))), "is of another model"),
        (
            lambda m: freeze(m, made(["fresh"], m)),
            "nothing to freeze: no parameter of the model was loaded in full, or patterns= select none that was",
        ),
        (lambda m: freeze(m, modules=["still"]), "nothing to freeze: patterns= and modules= select no parameter"),
    ],
)
def test_errors_say_what_was_given_and_what_to_do(call, said):
    model = Net(1)
    model.still = nn.BatchNorm1d(2, affine=False)
    before = state_of(model)
    with pytest.raises(UsageError, match=re.escape(said)):
        call(model)
    assert state_of(model) == before


def test_a_model_without_parameters_is_said_to_have_none():
    with pytest.raises(UsageError, match="nothing to freeze: the model has no parameters"):
        freeze(nn.BatchNorm1d(2, affine=False), patterns=["*"])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("changed", [False, True])
def test_freezes_of_the_same_are_undone_in_any_order(order, changed):
    model = Net(2)
    model.blocks[1].bn.eval()
    model(torch.randn(4, 4)).sum().backward()
    before = state_of(model)
    wishes = [{"modules": ["blocks.0.bn"]}, {"modules": ["blocks"], "dropout": "off"}, {"patterns": ["*bn*", "stem*"]}]
    frozen = [freeze(model, **wish) for wish in wishes]
    if changed:
        model.eval()
        model.train()
    left = set(range(3))
    for number in order:
        frozen[number].undo()
        left.remove(number)
        names = {name for other in left for name in frozen[other].names}
        assert {n for n, p in model.named_parameters() if not p.requires_grad} == names
        model.train() if changed else None
        still = {path for other in left for path in frozen[other].modules}
        assert not any(model.get_submodule(path).training for path in still)
        if left & {1}:
            assert not any(m.training for m in model.blocks.modules())
    if changed:
        assert all(module.training for module in model.modules())
    else:
        assert state_of(model) == before


def test_a_freeze_that_is_dropped_stays_and_keeps_no_other_from_being_undone():
    model = Net(1)
    first = freeze(model, modules=["stem"])
    second = freeze(model, modules=["stem", "norm"])
    del first
    gc.collect()
    second.undo()
    assert all(p.requires_grad for p in model.norm.parameters())
    assert not any(p.requires_grad for p in model.stem.parameters())


class Stubborn(nn.BatchNorm1d):
    """Lets nobody replace its train()."""

    def __setattr__(self, name, value):
        if name == "train":
            raise TypeError("no")
        super().__setattr__(name, value)


def test_a_freeze_that_fails_half_way_leaves_nothing_frozen():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Stubborn(4))
    model(torch.randn(3, 4)).sum().backward()
    before = state_of(model)
    with pytest.raises(TypeError, match="no"):
        freeze(model, patterns=["*"])
    assert state_of(model) == before
    freeze(model, patterns=["0", "1"]).undo()
    assert state_of(model) == before


class Flat(nn.Module):
    """Parameters that are parts of one memory: `head` begins within `body`, `tail` lies behind both."""

    def __init__(self):
        super().__init__()
        memory = torch.randn(40)
        self.body = nn.Parameter(memory[:16].view(4, 4))
        self.head = nn.Parameter(memory[12:20])
        self.tail = nn.Parameter(memory[20:])


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["body"], {"body": "head"}),
        (["head", "tail"], {"head": "body"}),
        (["body", "head"], {}),
        (["tail"], {}),
    ],
)
def test_what_changes_with_other_memory_is_left(patterns, left):
    model = Flat()
    frozen = freeze(model, patterns=patterns)
    assert set(frozen.names) == set(patterns)
    assert frozen.left == {name: f"shares memory with {other}, which goes on learning" for name, other in left.items()}


@pytest.mark.parametrize("dropout", ["keep", "off"])
def test_statistics_that_are_said_to_move_on_do_so(dropout):
    def built():
        body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
        return nn.ModuleDict({"body": body, "head": nn.Linear(3, 2)})

    state = {k: v for k, v in built().state_dict().items() if k.startswith("body") and "running" not in k}
    model = built()
    frozen = freeze(model, tg.load(model, state), dropout=dropout)
    model.train()
    before = model["body"][1].running_mean.clone()
    model["body"](torch.randn(8, 4))
    assert set(frozen.left) == {"body.1.running_mean", "body.1.running_var"}
    assert not torch.equal(model["body"][1].running_mean, before)
    assert model["body"][2].training == (dropout == "keep")
    frozen.undo()
    assert all(module.train().training for module in model.modules())


def test_no_tensor_is_looked_for_among_all_others(monkeypatch):
    """That took minutes for 20,000 tensors."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    report = tg.load(model, model.state_dict())
    monkeypatch.setattr(ModelTensor, "__eq__", lambda *_: pytest.fail("two tensors are compared"))
    monkeypatch.setattr("torchgraft.tuning.fates.fnmatchcase", count := mock.Mock(wraps=fnmatchcase))
    assert len(freeze(model, report).names) == 12
    assert freeze(model, modules=["1", "3.weight"]).names == ("1.weight", "1.bias", "3.weight")
    assert count.call_count == 2
