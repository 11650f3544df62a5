"""Casts block by block give what a cast of the whole gives, and promise what copies promise."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from applying_helpers import MemorySource, fingerprint, plan_for, reads_in_parts
from torch import nn

import torchgraft as tg
from torchgraft.applying import Manner, apply, chunks, workers
from torchgraft.core.errors import ApplyError, ModelLostError, PlanRefusedError
from torchgraft.core.plan import Feed, Rows, Step, Why
from torchgraft.core.policy import Policy, Verdict
from torchgraft.ops import Concat
from torchgraft.surveying import survey
from torchgraft.verifying import compare_values

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WAYS = ("auto", "keep", "check", "none")


def model_of(dtype, sizes=((64, 33), (5,), (2000,), (0, 3))):
    model = nn.Module()
    for number, size in enumerate(sizes):
        model.register_parameter(f"p{number}", nn.Parameter(torch.ones(size, dtype=dtype), requires_grad=False))
    return model


def source_of(model, dtype, **more):
    torch.manual_seed(1)
    return MemorySource({k: (torch.randn(v.shape) * 3).to(dtype) for k, v in model.state_dict().items()}, **more)


def load(model, source, undo, **policy):
    target = survey(model)
    plan = plan_for(target, source, Policy(**policy))
    return apply(model, target, plan, source, verify=compare_values, manner=Manner(undo=undo))


@pytest.fixture(params=[64, 4 << 20])
def block(request, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK", request.param)
    return request.param


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("undo", WAYS)
@pytest.mark.parametrize("given", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_values_are_those_of_a_cast_of_the_whole(given, wanted, undo):
    model = model_of(wanted)
    source = source_of(model, given)
    done = load(model, source, undo)
    assert all(check.passed for check in done.checks)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.tensors[name].to(wanted))


@pytest.mark.parametrize(("undo", "kept", "times"), [("keep", 8, 1), ("check", 0, 2), ("none", 0, 1)])
def test_casts_keep_old_values_only_where_that_was_asked_for(undo, kept, times):
    model = model_of(torch.float64, sizes=((1000,),))
    source = source_of(model, torch.float32)
    counted = reads_in_parts(source)
    assert load(model, source, undo).undo_bytes == 1000 * kept
    assert counted["p0"] == 1000 * 4 * times


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("undo", ["auto", "keep", "check"])
def test_odd_values_and_overflow_are_counted_and_nothing_is_written(undo):
    model = model_of(torch.float16)
    before = fingerprint(model)
    source = source_of(model, torch.float32)
    source.tensors["p0"][3, 3] = float("nan")
    source.tensors["p2"][[0, 999, 1999]] = 1e6
    with pytest.raises(PlanRefusedError) as caught:
        load(model, source, undo)
    texts = [o.text for o in caught.value.objections]
    assert any("p0 [64, 33] would get 1 NaN" in text for text in texts)
    assert any("p2 is float16, and 3 of its 2000 values, float32 in the checkpoint" in text for text in texts)
    assert fingerprint(model) == before
    load(model, source, undo, nonfinite=Verdict.ACCEPT, lossy=Verdict.ACCEPT)
    assert model.p2[999].isinf()


@pytest.mark.parametrize("undo", WAYS)
def test_a_read_that_fails_leaves_all_or_names_what_is_lost(undo, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK", 1024)
    model = model_of(torch.float64)
    whole = source_of(model, torch.bfloat16)
    load(model_of(torch.float64), whole, undo)
    before = fingerprint(model)
    for at in range(0, whole.reads, 3):
        source = source_of(model, torch.bfloat16, fail_at=at)
        with pytest.raises(ApplyError) as caught:
            load(model, source, undo)
        if isinstance(caught.value, ModelLostError):
            assert undo in ("none", "check")
            assert model.p0.isnan().all()
            model = model_of(torch.float64)
            before = fingerprint(model)
        assert fingerprint(model) == before


def test_joined_and_picked_rows_are_cast_on_the_way(block):
    model = model_of(torch.float32, sizes=((6, 4), (5, 3)))
    source = MemorySource({f"t{i}": torch.randn(n, m).half() for i, (n, m) in enumerate(((2, 4), (4, 4), (2, 3)))})
    target = survey(model)
    why = plan_for(target, source).steps[0].why
    steps = {
        "p0": Step(slot=target.slots[0], feeds=(Feed("t0"), Feed("t1")), ops=(Concat(0),), why=why),
        "p1": Step(slot=target.slots[1], feeds=(Feed("t2"),), rows=Rows(0, (3, 1)), why=why),
    }
    counted = reads_in_parts(source)
    apply(model, target, plan_for(target, source, **steps), source, verify=compare_values, manner=Manner(undo="check"))
    assert torch.equal(model.p0, torch.cat([source.tensors["t0"], source.tensors["t1"]]).float())
    assert torch.equal(model.p1[[3, 1]], source.tensors["t2"].float())
    assert torch.equal(model.p1[[0, 2, 4]], torch.ones(3, 3))
    assert counted == {"t0": 32, "t1": 64, "t2": 24}, f"each is read twice, in blocks of {block}"


@pytest.mark.parametrize("undo", WAYS)
@pytest.mark.parametrize(("given", "wanted"), [(torch.float16, torch.float32), (torch.float64, torch.bfloat16)])
def test_what_is_compared_has_the_bits_of_what_was_written_wherever_it_begins(given, wanted, undo):
    """Torch casts whole vectors and the rest behind them by other instructions, which make other bits of NaN."""
    model = model_of(wanted, sizes=((9_000,),))
    source = MemorySource(
        {name: torch.full((size,), torch.nan, dtype=given) for name, size in (("a", 4_001), ("b", 4_999))}
    )
    target = survey(model)
    why = Why("name", "same name")
    joined = {"p0": Step(slot=target.slots[0], feeds=(Feed("a"), Feed("b")), ops=(Concat(0),), why=why)}
    plan = plan_for(target, source, Policy(nonfinite=Verdict.ACCEPT), **joined)
    done = apply(model, target, plan, source, verify=compare_values, manner=Manner(undo=undo))
    assert all(check.passed for check in done.checks)


@pytest.mark.parametrize("undo", WAYS)
def test_several_threads_give_what_one_gives(undo, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK", 4096)
    monkeypatch.setattr(workers, "_WORTH_THREADS", 1)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 4)
    model = model_of(torch.float32, sizes=((300, 41), (5,), (7777,)))
    source = source_of(model, torch.bfloat16)
    seen, several, plain = set(), threading.Event(), source.read_pieces

    def read_pieces(pieces):
        """Read, the first thread when a second one has come: it could be done with everything by then."""
        time.sleep(0.002)
        seen.add(threading.get_ident())
        if len(seen) > 1:
            several.set()
        several.wait(timeout=60)
        plain(pieces)

    source.read_pieces = read_pieces
    load(model, source, undo)
    assert all(torch.equal(value, source.tensors[name].float()) for name, value in model.state_dict().items())
    assert len(seen) > 1


def test_a_value_in_the_middle_that_changes_between_the_readings_is_found():
    """Copies are compared by three pages; of what is cast, both readings are compared in full."""
    model = model_of(torch.float32, sizes=((50_000,),))
    source = source_of(model, torch.bfloat16)
    plain = source.read_into

    def changing(network, key, buffer, start=0):
        plain(network, key, buffer, start)
        source.tensors["p0"][10_000] = 77

    source.read_into = changing
    with pytest.raises(ModelLostError, match="p0: the file holds other values than a moment ago"):
        load(model, source, "check")
    assert model.p0.isnan().all()


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("undo", ["keep", "check"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_tensor_of_which_nothing_is_left_is_named(undo, turned):
    def net():
        return nn.Sequential(nn.Linear(60, 60), nn.BatchNorm1d(60), nn.Linear(60, 2)).half()

    source = {name: value.float() if value.is_floating_point() else value for name, value in net().state_dict().items()}
    source["0.weight"] = torch.zeros(60, 60)
    source["0.weight"][40:] = -1e-9
    source["1.running_var"] = torch.full((60,), 1e-9)
    source["2.weight"][0] = 1e-9
    source["2.bias"].zero_()
    if turned:
        source["0.weight"] = source["0.weight"].T.contiguous()
    asked = {"permute": {"0.weight": (1, 0)}} if turned else {}
    model = net()
    report = tg.load(model, source, undo=undo, **asked)
    found = [o for o in report.plan.objections if o.kind == "suspect"]
    assert [o.names for o in found] == [("0.weight", "1.running_var")]
    assert (
        "0.weight [60, 60] is float16, and all of its values, float32 in the checkpoint, are so small" in found[0].text
    )
    assert "likewise 1 tensor more: 1.running_var; give" in found[0].text
    assert tg.load(model.float(), source, **asked).plan.objections == ()
    assert model[2].weight.any()
