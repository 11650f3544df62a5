"""A plan that is made for a few members of long lists, and said of all, is the plan that is made of all of them.

Shares of what was compared ("agree in 97%") may differ, as there is less to compare.
"""

import re

import pytest
import torch

from torchgraft import planning
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Action
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.planning import make_plan
from torchgraft.reading import open_checkpoint
from torchgraft.request import make_request
from torchgraft.thinning import few

D, F = 8, 32
OURS = {"norm1.weight": (D,), "norm1.bias": (D,), "attn.q.weight": (D, D), "attn.k.weight": (D, D), "attn.v.weight": (D, D),
        "attn.o.weight": (D, D), "norm2.weight": (D,), "norm2.bias": (D,), "mlp.fc1.weight": (F, D), "mlp.fc2.weight": (D, F)}  # fmt: skip
# The same block as other libraries call and order it.
HUGGING = {"ln_1.weight": "norm1.weight", "ln_1.bias": "norm1.bias", "self_attn.q_proj.weight": "attn.q.weight",
           "self_attn.k_proj.weight": "attn.k.weight", "self_attn.v_proj.weight": "attn.v.weight",
           "self_attn.o_proj.weight": "attn.o.weight", "ln_2.weight": "norm2.weight", "ln_2.bias": "norm2.bias",
           "feed_forward.fc1.weight": "mlp.fc1.weight", "feed_forward.fc2.weight": "mlp.fc2.weight"}  # fmt: skip
EXPERT = {"w1.weight": (F, D), "w3.weight": (F, D), "w2.weight": (D, F)}
EXPERT_NAMES = {"gate_proj.weight": "w1.weight", "up_proj.weight": "w3.weight", "down_proj.weight": "w2.weight"}


def checkpoint(shapes, shared=None):
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    return open_checkpoint({**state, **{name: state[first] for name, first in (shared or {}).items()}})


def target(shapes, aliases=None, **more):
    slots = tuple(
        Slot(
            spec=TensorSpec(name, shape, DType.F32),
            aliases=(aliases or {}).get(name, ()),
            owner=name.rpartition(".")[0],
            order=order,
        )
        for order, (name, shape) in enumerate(shapes.items())
    )
    return Target(slots, **{"classes": {}, **more})


def blocks(path, count, parts=OURS, names=None, start=0):
    called = names or {name: name for name in parts}
    return {
        f"{path.format(n)}.{new}": parts[old]
        for n in range(start, start + count)
        for new, old in called.items()
        if old in parts
    }


def ends(head=10, **more):
    return {"embed.weight": (50, D), **more, "ln_f.weight": (D,), "ln_f.bias": (D,), "head.weight": (head, D)}


def theirs(head=10):
    return {"tok_emb.weight": (50, D), "ln_f.weight": (D,), "ln_f.bias": (D,), "lm_head.weight": (head, D)}


def experts(layers, count, path, names=None, dense=0):
    made = {}
    for n in range(layers):
        made |= blocks(path + ".{}", 1, OURS, HUGGING if names else None, start=n)
        if n >= dense:
            made |= {f"{path}.{n}.router.weight": (count, D)}
            made |= blocks(f"{path}.{n}.experts.{{}}", count, EXPERT, names)
    return made


def fused(count):
    parts = {**OURS, "attn.qkv.weight": (3 * D, D)}
    names = {name: name for name in parts if name not in ("attn.q.weight", "attn.k.weight", "attn.v.weight")}
    return blocks("blocks.{}", count, parts, names)


NAMES = {
    "other words": (ends(**blocks("blocks.{}", 14)), {**theirs(), **blocks("h.{}", 14, names=HUGGING)}),
    "counted from one": (
        ends(**blocks("blocks.{}", 14)),
        {**theirs(), **blocks("h.{}", 14, names=HUGGING, start=1)},
    ),
    "numbers that end a word": (
        ends(**blocks("blocks.{}", 14)),
        {**theirs(), **blocks("layer_{}", 14, names=HUGGING)},
    ),
    "sorted by name": (
        ends(**blocks("blocks.{}", 14)),
        dict(sorted({**theirs(), **blocks("h.{}", 14, names=HUGGING)}.items())),
    ),
    "experts": (ends(**experts(10, 10, "blocks")), {**theirs(), **experts(10, 10, "h", EXPERT_NAMES)}),
    "first layers dense": (
        ends(**experts(13, 10, "blocks", dense=3)),
        {**theirs(), **experts(13, 10, "h", EXPERT_NAMES, dense=3)},
    ),
    "two towers of two depths": (
        ends(**blocks("text.blocks.{}", 14), **blocks("vision.blocks.{}", 10)),
        {**theirs(), **blocks("text_model.h.{}", 14, names=HUGGING), **blocks("vision_model.h.{}", 10, names=HUGGING)},
    ),
    "another head": (
        ends(head=7, **blocks("blocks.{}", 14)),
        {**theirs(head=10), **blocks("h.{}", 14, names=HUGGING)},
    ),
    "something new in each layer": (
        ends(**blocks("blocks.{}", 14, {**OURS, "adapter.weight": (3, D)})),
        {**theirs(), **blocks("h.{}", 14, names=HUGGING)},
    ),
    "something of each layer is not used": (
        ends(**blocks("blocks.{}", 14)),
        {**theirs(), **blocks("h.{}", 14, {**OURS, "z": (3, D)}, {**HUGGING, "gate.weight": "z"})},
    ),
    "rows joined": (ends(**fused(14)), {**theirs(), **blocks("h.{}", 14, names=HUGGING)}),
    "rows apart": (ends(**blocks("blocks.{}", 14, names=HUGGING)), {**theirs(), **fused(14)}),
    "a prefix and more": (
        ends(**blocks("blocks.{}", 14), **{"pool.weight": (D, 2)}),
        {f"model.{name}": shape for name, shape in ends(**blocks("blocks.{}", 14)).items() if "head" not in name},
    ),
}
# Lists that are longer on one side, which is said of what both have, and of the rest.
LENGTHS = {
    "fewer layers in the model": (ends(**blocks("blocks.{}", 12)), {**theirs(), **blocks("h.{}", 14, names=HUGGING)}),
    "fewer layers in the file": (ends(**blocks("blocks.{}", 14)), {**theirs(), **blocks("h.{}", 12, names=HUGGING)}),
    "half of the layers": (ends(**blocks("blocks.{}", 12)), {**theirs(), **blocks("h.{}", 24, names=HUGGING)}),
    "a few of the layers": (ends(**blocks("blocks.{}", 5)), {**theirs(), **blocks("h.{}", 30, names=HUGGING)}),
    "half of the layers, equal names": (ends(head=7, **blocks("h.{}", 12)), ends(**blocks("h.{}", 24))),
    "twice the layers, equal names": (ends(head=7, **blocks("h.{}", 24)), ends(**blocks("h.{}", 12))),
    "a few of the layers, behind a prefix": (
        ends(head=7, **blocks("h.{}", 3)),
        {f"model.{name}": shape for name, shape in ends(**blocks("h.{}", 30)).items()},
    ),
    "half of the experts": (ends(**experts(10, 10, "h")), ends(**experts(10, 20, "h"))),
    "more dense layers": (ends(**experts(13, 10, "h", dense=3)), ends(**experts(13, 10, "h", dense=1))),
    "one tower is shorter": (
        ends(head=7, **blocks("text.h.{}", 14), **blocks("vision.h.{}", 10)),
        ends(**blocks("text.h.{}", 20), **blocks("vision.h.{}", 10)),
    ),
}
# What can't be said of all, or is in doubt, is decided for all.
WHOLE = {
    "counted from one": (
        ends(**blocks("blocks.{}", 12)),
        {**theirs(), **blocks("h.{}", 24, names=HUGGING, start=1)},
    ),
    "two towers of two depths": (
        ends(head=7, **blocks("text.h.{}", 10), **blocks("vision.h.{}", 14)),
        ends(**blocks("text.h.{}", 14), **blocks("vision.h.{}", 20)),
    ),
}


def key(step):
    why = step.why
    said = [re.sub(r"\d+%", "%", text) for text in (why.text, *why.evidence)]
    return (
        step.slot,
        step.feeds,
        step.ops,
        step.base,
        step.rows,
        step.made,
        step.certainty,
        step.quiet,
        why.rule,
        said,
    )


@pytest.fixture
def both_plans(monkeypatch):
    """Return what plans as a large model is planned, and says whether that was done by a few members, and in whole."""

    def plans(model, file, **given):
        made = []
        plan_of_few = planning._plan_of_few
        monkeypatch.setattr(few, "MANY", 0)
        monkeypatch.setattr(few, "WORTH", 1)
        monkeypatch.setattr(planning, "_plan_of_few", lambda *args: made.append(plan_of_few(*args)) or made[-1])
        with file:
            by_few = make_plan(file, model, make_request(**given))
            monkeypatch.setattr(planning, "_plan_of_few", lambda *_: None)
            whole = make_plan(file, model, make_request(**given))
        monkeypatch.setattr(planning, "_plan_of_few", plan_of_few)
        return by_few, whole, bool(made and made[0])

    return plans


def expect_equal(by_few, whole):
    assert [key(step) for step in by_few.steps] == [key(step) for step in whole.steps]
    assert by_few.unused == whole.unused
    assert by_few.objections == whole.objections
    assert by_few.notes == whole.notes
    assert by_few.source_specs == whole.source_specs
    assert by_few.coverage == whole.coverage


@pytest.mark.parametrize("case", NAMES)
def test_what_is_said_of_few_is_said_of_all(both_plans, case):
    model, file = NAMES[case]
    by_few, whole, is_by_few = both_plans(target(model), checkpoint(file))
    assert is_by_few
    expect_equal(by_few, whole)
    assert sum(step.action is not Action.FRESH for step in by_few.steps) > 100


@pytest.mark.parametrize("case", [*LENGTHS, *WHOLE])
def test_lists_of_other_lengths_are_said_of_what_both_have_and_of_the_rest_or_decided_for_all(both_plans, case):
    model, file = (LENGTHS | WHOLE)[case]
    by_few, whole, is_by_few = both_plans(target(model), checkpoint(file))
    assert is_by_few == (case in LENGTHS)
    expect_equal(by_few, whole)


def test_that_nothing_corresponds_is_said_of_all(both_plans):
    model, file = {f"blocks.{n}.w": (D, D) for n in range(30)}, {f"h.{n}.w": (D + 1, D) for n in range(30)}
    by_few, whole, is_by_few = both_plans(target(model), checkpoint(file))
    assert is_by_few
    expect_equal(by_few, whole)
    assert len(by_few.fresh) == len(by_few.unused) == 30


@pytest.mark.parametrize("shift", [1, 3, 12])
def test_a_member_that_differs_is_no_part_of_a_run(both_plans, shift):
    """One layer of the model, and of the file, lacks a bias; where it is the same one, it finds its place."""
    model, file = ends(**blocks("blocks.{}", 14)), {**theirs(), **blocks("h.{}", 14, names=HUGGING)}
    del model[f"blocks.{shift}.norm1.bias"], file[f"h.{shift}.ln_1.bias"]
    by_few, whole, _ = both_plans(target(model), checkpoint(file))
    expect_equal(by_few, whole)


def test_tied_tensors_stay_as_they_are(both_plans):
    model = ends(**blocks("blocks.{}", 14))
    del model["head.weight"]
    file = {**theirs(head=50), **blocks("h.{}", 14, names=HUGGING)}
    by_few, whole, is_by_few = both_plans(
        target(model, {"embed.weight": ("head.weight",)}), checkpoint(file, {"lm_head.weight": "tok_emb.weight"})
    )
    assert is_by_few
    expect_equal(by_few, whole)


def test_what_the_caller_says_is_said_of_all_names(both_plans):
    model, file = NAMES["other words"]
    by_few, whole, is_by_few = both_plans(target(model), checkpoint(file), fresh=["blocks.3"])
    assert not is_by_few
    expect_equal(by_few, whole)
    assert not by_few.by_slot["blocks.3.attn.q.weight"].feeds
