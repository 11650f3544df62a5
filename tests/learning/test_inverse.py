"""A plan turned round: what was loaded is given back under the checkpoint's own names and shapes, to the last bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.formatting import tensors
from torchgraft.core.plan import Feed, Plan, Step, Unused, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.learning import inverse_of
from torchgraft.ops import (
    Concat,
    HeadsToParts,
    Index,
    InsertZeros,
    MeanRows,
    PartsToHeads,
    Permute,
    Resample1d,
    Reshape,
    RotaryLayout,
    SelectRows,
    SliceDim,
    Stack,
    Transpose,
    run_step,
    step_specs,
)
from torchgraft.reporting import text_of

WHY = Why("test", "so it is")


def spec(name, *shape, dtype=DType.F32):
    return TensorSpec(name, shape, dtype)


def plan_of(sources, steps, unused=()):
    """Return the plan of `steps`: slot name -> feeds (key, ops...), ops."""
    specs = {name: spec(name, *shape) for name, shape in sources.items()}
    made = []
    for name, (feeds, ops) in steps.items():
        fed = tuple(Feed(key, tuple(own)) for key, *own in feeds)
        step = Step(slot=Slot(spec=spec(name)), feeds=fed, ops=tuple(ops), why=WHY)
        (found,) = step_specs(step, lambda feed: specs[feed.key])
        made.append(Step(slot=Slot(spec=spec(name, *found.shape)), feeds=fed, ops=tuple(ops), why=WHY))
    left = tuple(
        Unused(spec=specs[name], why=Why("no counterpart", "the model has no place for it")) for name in unused
    )
    return Plan(steps=tuple(made), unused=left, source_specs=specs)


def filled(plan, values):
    return {step.slot.name: run_step(step, lambda feed: values[feed.key])[0] for step in plan.steps}


def random_values(plan):
    g = torch.Generator().manual_seed(5)
    return {name: torch.randn(s.shape, generator=g) for name, s in plan.source_specs.items()}


def parted(*ops, dim=0, sizes=(4, 2, 2), after=()):
    """Return steps that part `w` into q, k, v, behind `ops` and before `after`."""
    ends = [0, sizes[0], sizes[0] + sizes[1], sum(sizes)]
    return {
        name: ([("w", *ops, SliceDim(dim, a, b, sum(sizes)), *after)], [])
        for name, a, b in zip("qkv", ends, ends[1:], strict=False)
    }


QKV = {"q": (4, 6), "k": (2, 6), "v": (2, 6)}
EXPERTS = {f"{part}{n}": (4, 6) for n in range(3) for part in "gu"}
BACK_AND_FORTH = {
    "renamed": ({"old": (3, 4)}, {"new": ([("old",)], [])}),
    "transposed": ({"w": (3, 4)}, {"w": ([("w", Transpose())], [])}),
    "kernel": ({"w": (3, 4, 2, 5)}, {"w": ([("w", Permute((3, 2, 0, 1)))], [])}),
    "joined": (QKV, {"w": ([(n,) for n in QKV], [Concat(0)])}),
    "joined, head by head": (
        dict.fromkeys("qkv", (4, 6)),
        {"w": ([(n,) for n in "qkv"], [Concat(0), PartsToHeads(groups=2, parts=(1, 1, 1))])},
    ),
    "transposed and joined": (QKV, {"w": ([(n, Transpose()) for n in QKV], [Concat(1)])}),
    "parted": ({"w": (8, 6)}, parted()),
    "parted along columns": ({"w": (6, 8)}, parted(dim=1, after=[Transpose()])),
    "parted, head by head": ({"w": (12, 6)}, parted(HeadsToParts(groups=2, parts=(1, 1, 1)), sizes=(4, 4, 4))),
    "parted and turned in pairs": ({"w": (8, 6)}, parted(after=[RotaryLayout(heads=1, to="half")])),
    "parted behind a reshape": ({"w": (2, 4, 6)}, parted(Reshape((8, 6)))),
    "parted by picks": (
        {"w": (6, 2)},
        {"even": ([("w", SelectRows(0, (4, 0, 2)))], []), "odd": ([("w", SelectRows(0, (1, 3, 5)))], [])},
    ),
    "another order": ({"w": (4, 3)}, {"w": ([("w", SelectRows(0, (2, 0, 3, 1)))], [])}),
    "a stack": ({f"e{n}": (4, 6) for n in range(3)}, {"e": ([(f"e{n}",) for n in range(3)], [Stack(0)])}),
    "a stack of two in one": (EXPERTS, {"e": ([(n,) for n in EXPERTS], [Concat(0), Reshape((3, 8, 6))])}),
    "out of a stack": ({"e": (3, 4, 6)}, {f"e.{n}": ([("e", Index(0, n))], []) for n in range(3)}),
    "out of a stack of two in one": (
        {"e": (3, 8, 6)},
        {f"{n}{p}": ([("e", Index(0, n), SliceDim(0, a, a + 4, 8), Transpose())], []) for n in range(3) for p, a in ("g0", "u4") for a in [int(a)]},
    ),
    "a single layer of a list of one": ({"e": (1, 4, 6)}, {"e": ([("e", Index(0, 0))], [])}),
    "zeros for what is lacking": ({"q": (4,), "v": (4,)}, {"b": ([("q",), ("v",)], [Concat(0), InsertZeros(0, 4, 4)])}),
    "a longer table": ({"w": (5, 3)}, {"w": ([("w", MeanRows(source=5, target=7))], [])}),
}  # fmt: skip


@pytest.mark.parametrize("case", BACK_AND_FORTH)
def test_what_a_plan_moves_comes_back_to_the_last_bit(case):
    plan = plan_of(*BACK_AND_FORTH[case])
    values = random_values(plan)
    back = inverse_of(plan)
    assert not back.absent
    made = back.convert(filled(plan, values))
    assert list(made) == list(values)
    assert all(torch.equal(made[name], value) for name, value in values.items())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_parts_of_a_matrix_come_back(data):
    """Cut along either dimension, at any places, in any order, behind a permutation of rows and before a transpose."""
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    dim = data.draw(st.integers(0, 1))
    ends = sorted(data.draw(st.sets(st.integers(1, shape[dim] - 1)))) if shape[dim] > 1 else []
    before = (SelectRows(0, tuple(data.draw(st.permutations(range(shape[0]))))),) if data.draw(st.booleans()) else ()
    after = (Transpose(),) if data.draw(st.booleans()) else ()
    cuts = [(a, b) for a, b in zip([0, *ends], [*ends, shape[dim]], strict=True)]
    steps = {
        f"part{n}": ([("w", *before, SliceDim(dim, a, b, shape[dim]), *after)], [])
        for n, (a, b) in enumerate(data.draw(st.permutations(cuts)))
    }
    plan = plan_of({"w": shape}, steps)
    values = random_values(plan)
    assert torch.equal(inverse_of(plan).convert(filled(plan, values))["w"], values["w"])


LOST = {
    "not used": ({"w": (2, 3), "x": (2,)}, {"w": ([("w",)], [])}, ["x"], "the model has no place for it"),
    "resampled": (
        {"x": (4, 3)},
        {"x": ([("x", Resample1d(7))], [])},
        [],
        "what was done to it can't be undone",
    ),
    "in two places": (
        {"x": (2, 3)},
        {"a": ([("x",)], []), "b": ([("x",)], [])},
        [],
        "several tensors of the model were made of it, and may differ by now: a, b",
    ),
    "a part of it": ({"x": (8, 3)}, {"q": ([("x", SliceDim(0, 0, 3, 8))], [])}, [], "the model has 3 of its 8 rows"),
    "a part twice": (
        {"x": (4, 3)},
        {"a": ([("x", SliceDim(0, 0, 3, 4))], []), "b": ([("x", SliceDim(0, 2, 4, 4))], [])},
        [],
        "more than once, and may differ",
    ),
    "an expert is missing": (
        {"x": (3, 4, 2)},
        {f"{n}{a}": ([("x", Index(0, n), SliceDim(0, a, a + 2, 4))], []) for n in range(2) for a in (0, 2)},
        [],
        "the model has 16 of its 24 elements",
    ),
    "cut along two dimensions": (
        {"x": (4, 6)},
        {f"{a}{b}": ([("x", SliceDim(0, a, a + 2, 4), SliceDim(1, b, b + 3, 6))], []) for a in (0, 2) for b in (0, 3)},
        [],
        "no single join",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_what_cannot_be_given_back_is_named_with_the_reason(case):
    sources, steps, unused, why = LOST[case]
    plan = plan_of(sources, steps, unused)
    back = inverse_of(plan)
    (absent,) = back.absent
    assert absent.spec.name == "x"
    assert why in absent.why
    assert {output.name for output in back.outputs} == set(sources) - {"x"}
    assert not back.complete
    shown = text_of("conversion", back)
    assert shown.startswith(f"{len(sources) - 1} of {tensors(len(sources))} of the checkpoint given back, 1 not")
    assert why in shown


class Fused(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, classes)


class Apart(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.proj, self.head = nn.Linear(8, 8), nn.Linear(8, classes)


@pytest.mark.parametrize(("theirs", "mine"), [(Fused, Apart), (Apart, Fused)])
def test_a_model_that_was_trained_on_is_written_as_the_checkpoint_was(theirs, mine, tmp_path):
    torch.save({"model": theirs().state_dict()}, tmp_path / "theirs.pt")
    model = mine(classes=7)
    report = tg.load(model, tmp_path / "theirs.pt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    tg.save_model(tmp_path / "mine.pt", model)
    back = tg.inverse(report)
    saved = tg.convert(tmp_path / "mine.pt", tmp_path / "back.safetensors", learned=back)
    assert saved.notes == ("not given back: head.{weight,bias}; inverse() says why",)
    again = mine(classes=7)
    again.head.load_state_dict(model.head.state_dict())
    tg.load(again, tmp_path / "back.safetensors", fresh=["head.*"])
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in again.state_dict().items())
    tg.load(theirs(), tmp_path / "mine.pt", learned=back, fresh=["head.*"])  # and their own model takes it at once


def test_types_are_the_models(tmp_path):
    model = Apart().double()
    report = tg.load(model, Fused().state_dict())
    with torch.no_grad():
        model.q.weight.add_(1e-12)
    made = tg.inverse(report).convert(model.state_dict())
    assert made["qkv.weight"].dtype == torch.float64
    assert torch.equal(made["qkv.weight"][:8], model.q.weight)


def test_names_of_one_memory_come_back_as_such(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.out.weight = self.embed.weight

    model, old = Tied(), Tied()
    torch.save(old.state_dict(), tmp_path / "old.pt")
    made = tg.inverse(tg.load(model, tmp_path / "old.pt"))
    assert not made.absent
    tg.save_model(tmp_path / "mine.pt", model)
    saved = tg.convert(tmp_path / "mine.pt", tmp_path / "back.pt", learned=made)
    assert saved.shared
    back = torch.load(tmp_path / "back.pt")
    assert torch.equal(back["embed.weight"], old.embed.weight)
    assert torch.equal(back["out.weight"], old.embed.weight)


def test_values_that_were_added_to_the_models_own_do_not_come_back():
    base = nn.Sequential(nn.Linear(4, 6))
    adapter = {
        "base_model.model.0.lora_A.weight": torch.randn(2, 4),
        "base_model.model.0.lora_B.weight": torch.randn(6, 2),
    }
    made = tg.inverse(tg.plan(base, adapter, merge_lora=2.0))
    assert {one.spec.name for one in made.absent} == set(adapter)
    assert all("was added to values of 0.weight" in one.why for one in made.absent)


def test_a_plan_that_was_kept_leads_back_as_well(tmp_path):
    state = Fused().state_dict()
    tg.save(tmp_path / "theirs.safetensors", state)
    model = Apart()
    plan = tg.plan(model, tmp_path / "theirs.safetensors")
    tg.save_plan(tmp_path / "plan.json", plan)
    tg.load(model, tmp_path / "theirs.safetensors")
    back = tg.inverse(tmp_path / "plan.json")
    back.save(tmp_path / "back.json")
    for made in (back, tg.inverse(plan), tg.Learned.read(tmp_path / "back.json")):
        assert all(torch.equal(v, state[n]) for n, v in made.convert(model.state_dict()).items())
    assert tg.Learned.read(tmp_path / "back.json").absent == back.absent


def test_another_model_is_refused(tmp_path):
    back = tg.inverse(tg.plan(Apart(), Fused().state_dict()))
    with pytest.raises(tg.UsageError, match=r"not what this conversion was made for: q.weight \[8, 8\] is missing"):
        back.convert(Fused().state_dict())


def test_what_is_no_plan_is_refused():
    with pytest.raises(tg.UsageError, match="plan is a dict: give a plan, the report of a load"):
        tg.inverse({})


def test_ranks_have_no_way_back():
    plan = plan_of({"w": (2, 3)}, {"w": ([("w",)], [])})
    step = Step(
        slot=plan.steps[0].slot, feeds=(Feed("w", (), "rank0"), Feed("w", (), "rank1")), ops=(Concat(0),), why=WHY
    )
    with pytest.raises(tg.UsageError, match="joins 2 networks"):
        inverse_of(Plan(steps=(step,), source_specs=plan.source_specs))


def test_the_rest_of_the_model_goes_along_on_request():
    theirs, mine = Fused(classes=5), Apart(classes=7)
    mine.extra = nn.Linear(2, 3)
    report = tg.load(mine, theirs.state_dict())
    assert {one.spec.name for one in tg.inverse(report).absent} == {"head.weight", "head.bias"}
    made = tg.inverse(report, rest=True)
    assert not made.absent
    back = made.convert(mine.state_dict())
    assert torch.equal(back["head.weight"], mine.head.weight)
    assert torch.equal(back["extra.bias"], mine.extra.bias)
    assert back.keys() == {*theirs.state_dict(), "extra.weight", "extra.bias"}


def test_a_new_layer_does_not_take_the_name_of_one_that_is_given_back():
    old = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    made = tg.inverse(tg.load(model, old.state_dict()), rest=True)
    back = made.convert(model.state_dict())
    assert torch.equal(back["1.weight"], old[1].weight)
    assert made.dropped == ("1.weight", "1.bias")
    assert back.keys() == old.state_dict().keys()


def test_rows_that_the_checkpoint_has_no_place_for_are_told(tmp_path):
    old, model = nn.ModuleDict({"embed": nn.Embedding(6, 4)}), nn.ModuleDict({"embed": nn.Embedding(8, 4)})
    made = tg.inverse(tg.load(model, old.state_dict(), grow_rows=["embed.*"]))
    assert made.partly == ("embed.weight",)
    assert "given back in part: 1 tensor" in str(made)
    assert torch.equal(made.convert(model.state_dict())["embed.weight"], old["embed"].weight)
    tg.save_model(tmp_path / "mine.safetensors", model)
    saved = tg.convert(tmp_path / "mine.safetensors", tmp_path / "back.safetensors", learned=made)
    assert saved.notes == ("given back in part, the checkpoint has no place for the rest: embed.weight",)


def test_further_names_in_the_file_come_back_too(tmp_path):
    """A block that keeps its layers in a list, too: the model has each once, under the one name or the other."""
    layer = nn.Linear(4, 4)
    old = nn.ModuleDict({"conv": layer, "all_modules": nn.ModuleList([layer])})
    torch.save(old.state_dict(), tmp_path / "old.pt")
    model = nn.ModuleDict({"conv": nn.Linear(4, 4)})
    made = tg.inverse(tg.load(model, tmp_path / "old.pt"))
    assert not made.absent
    back = made.convert(model.state_dict())
    assert back.keys() == old.state_dict().keys()
    assert all(torch.equal(v, back[n]) for n, v in old.state_dict().items())
