"""On a device everything comes out as on the CPU, bit for bit, and nothing is half loaded. Skipped where there is no device."""

from __future__ import annotations

import io
import threading

import pytest
import torch
from device_models import ASKED, FORMS, Net, alike, as_safetensors, as_zip, checkpoint, facts, net, untouched
from torch import nn

import torchgraft as tg

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

WAYS = ["auto", "keep", "check", "none"]


@pytest.fixture(scope="module")
def wanted():
    model = net()
    tg.load(model, checkpoint(), **ASKED)
    return {n: v.detach().clone() for n, v in model.state_dict().items()}


@pytest.mark.parametrize("undo", WAYS)
@pytest.mark.parametrize("form", FORMS)
def test_a_model_on_the_device_gets_what_one_on_the_cpu_gets(form, undo, wanted, tmp_path):
    given = FORMS[form](checkpoint(), tmp_path)
    model = net("cuda")
    before = facts(model)
    report = tg.load(model, given, undo=undo, **ASKED)
    alike(model, wanted)
    assert {n: f[:-1] for n, f in facts(model).items()} == {n: f[:-1] for n, f in before.items()}
    assert all(check.passed for check in report.checks)
    assert "cuda" not in str(report).lower()


@pytest.mark.parametrize("form", FORMS)
def test_a_model_of_both_memories(form, wanted, tmp_path):
    model = net()
    model.blocks[1].cuda()
    model.conv.cuda()
    tg.load(model, FORMS[form](checkpoint(), tmp_path), **ASKED)
    alike(model, wanted)
    assert model.conv.weight.is_cuda
    assert not model.embed.weight.is_cuda


@pytest.mark.parametrize("form", FORMS)
def test_a_model_on_meta_comes_to_life_on_the_device(form, wanted, tmp_path):
    model = net("meta")
    wanted = {n: v for n, v in wanted.items() if not n.startswith("extra") and n not in ("embed.weight", "head.weight")}
    asked = dict(ASKED)
    state = checkpoint()
    state["embed.weight"] = torch.randn(110, 60)
    asked.pop("grow_rows")
    tg.load(model, FORMS[form](state, tmp_path), device="cuda", **asked)
    assert all(t.is_cuda for t in (*model.parameters(), *model.buffers()))
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight.cpu(), state["embed.weight"])
    found = model.state_dict()
    assert all(torch.equal(found[n].cpu(), v) for n, v in wanted.items())
    assert torch.equal(model.table.numbers.cpu(), torch.arange(5.0))
    assert bool(model.extra.weight.isfinite().all())
    assert model.extra.weight.std() > 0


def test_built_on_the_device(tmp_path, wanted):
    path = as_safetensors(checkpoint(), tmp_path)
    torch.manual_seed(1)
    model, report = tg.build(Net, path, device="cuda", **ASKED)
    assert all(t.is_cuda for t in (*model.parameters(), *model.buffers()))
    assert torch.equal(model.table.numbers.cpu(), torch.arange(5.0))
    names = [n for n in wanted if not n.startswith("extra") and n not in ("embed.weight", "head.weight")]
    assert all(torch.equal(model.state_dict()[n].cpu(), wanted[n]) for n in names)
    assert torch.equal(model.embed.weight[:90].cpu(), wanted["embed.weight"][:90])
    assert all(check.passed for check in report.checks)


def test_from_the_device_to_the_cpu_and_between_modules(wanted):
    source = net("cuda", seed=3)
    model = net(seed=4)
    tg.load(model, source)
    alike(source, model.state_dict())
    back = net("cuda", seed=5)
    tg.load(back, model)
    alike(back, model.state_dict())
    assert back.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("undo", WAYS)
def test_a_default_device_changes_nothing(undo, wanted, tmp_path):
    path = as_zip(checkpoint(), tmp_path)
    torch.set_default_device("cuda")
    try:
        for where in ("cpu", "cuda"):
            with torch.device("cpu"):
                model = net(where)
            tg.plan(model, path, **ASKED)
            tg.load(model, path, undo=undo, **ASKED)
            alike(model, wanted)
        assert not tg.diff(model, path, values=True).equal
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("undo", ["auto", "keep", "check"])
def test_an_interrupted_load_leaves_the_model_as_it_was(undo, tmp_path):
    path = as_safetensors(checkpoint(), tmp_path)
    model = net("cuda")
    before = facts(model)
    for at in (1, 3):
        calls = []

        def interrupt(done, whole, at=at, calls=calls):
            calls.append(done)
            if len(calls) == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tg.load(model, path, undo=undo, progress=interrupt, **ASKED)
        untouched(model, before)


def test_values_that_are_not_finite_are_refused_before_anything_is_sent(tmp_path):
    state = checkpoint()
    state["halves.weight"][3, 3] = float("inf")
    model = net("cuda")
    before = facts(model)
    with pytest.raises(tg.PlanRefusedError, match=r"halves\.weight"):
        tg.load(model, as_safetensors(state, tmp_path), **ASKED)
    untouched(model, before)


def test_a_refused_load_leaves_the_random_state_of_the_device_as_it_was():
    """What stays fresh is drawn on the device before the values of the file are looked at."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    torch.cuda.init()
    state = torch.cuda.get_rng_state()
    given = {"0.weight": torch.full((4, 3), float("nan")), "0.bias": torch.zeros(4)}
    with pytest.raises(tg.PlanRefusedError, match="NaN"):
        tg.load(model, given, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize("where", ["cuda", "meta"])
def test_too_little_memory_on_the_device_is_told_and_nothing_changes(where, tmp_path):
    tg.save(tmp_path / "large.safetensors", {"0.weight": torch.randn(1 << 14, 1 << 14)})
    model = nn.Sequential(nn.Linear(1 << 14, 1 << 14, bias=False, device=where))
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (64 << 20)) / whole)
    try:
        if where == "meta":
            with pytest.raises(tg.ApplyError, match=r"memory"):
                tg.load(model, tmp_path / "large.safetensors", device="cuda")
            assert model[0].weight.is_meta
        else:  # nothing but the pinned buffers is needed
            tg.load(model, tmp_path / "large.safetensors")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    if where == "cuda":
        assert tg.diff(model, tmp_path / "large.safetensors", values=True).equal


def test_a_device_that_is_not_there_is_told(tmp_path):
    path = as_safetensors(checkpoint(), tmp_path)
    model = net("meta")
    with pytest.raises(tg.UsageError, match=r"device='cuda:99' can't be used here"):
        tg.load(model, path, device="cuda:99", **ASKED)
    assert model.extra.weight.is_meta
    with pytest.raises(tg.UsageError, match=r"cuda:99"):
        tg.build(Net, path, device="cuda:99", **ASKED)


def test_what_was_asked_of_the_device_before_comes_first(wanted):
    """Work in a stream of the caller's is done before the load writes, and what follows in it sees what was loaded."""
    model = net("cuda")
    stream = torch.cuda.Stream()
    big = torch.randn(4000, 4000, device="cuda")
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(20):
            big = big @ big / 100
        for p in model.parameters():
            p.fill_(3)
        tg.load(model, checkpoint(), **ASKED)
        seen = {n: v.clone() for n, v in model.state_dict().items()}
    torch.cuda.synchronize()
    rows = ("embed.weight", "head.weight")
    for name, value in wanted.items():
        if not name.startswith("extra") and name not in rows:
            assert torch.equal(seen[name].cpu(), value), name


def test_several_loads_at_once(wanted):
    models = [net("cuda") for _ in range(4)]
    threads = [threading.Thread(target=tg.load, args=(m, checkpoint()), kwargs=ASKED) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        alike(model, wanted)


def test_open_files_and_bytes(wanted):
    file = io.BytesIO()
    torch.save(checkpoint(), file)
    file.seek(0)
    model = net("cuda")
    tg.load(model, file, **ASKED)
    alike(model, wanted)
