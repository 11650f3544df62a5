"""Towers of one build under names of their own, and lists that are counted from either end: names alone don't decide."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.plan import Certainty, Why
from torchgraft.core.policy import Policy, Verdict
from torchgraft.core.specs import Target
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.reviewing.exchangeable import crossed_names
from torchgraft.matching.reviewing.finished import Finished
from torchgraft.matching.tables.stated import Models

LENIENT = Policy(container=Verdict.WARN)


def towers(*names, rows=(16, 16)):
    made = (nn.ModuleDict({"fc1": nn.Linear(8, n), "fc2": nn.Linear(n, 16)}) for n in rows)
    return nn.ModuleDict(dict(zip(names, made, strict=True)))


@pytest.mark.parametrize("order", [("tower_a", "tower_b"), ("tower_b", "tower_a")])
def test_like_towers_are_in_doubt_where_their_names_do_not_say_which_is_which(order):
    plan = tg.plan(towers(*order), towers("img_encoder", "txt_encoder").state_dict(), policy=LENIENT)
    assert {step.certainty for step in plan.steps} == {Certainty.DOUBT}
    assert "nothing tells which of them" in plan.steps[0].why.doubt


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("img_encoder", "txt_encoder"), ("image", "text")),
        (("stage1", "stage2"), ("block1", "block2")),
        (("attn", "temporal_attn"), ("attention_attention", "temporal_attention_attention")),
    ],
)
def test_names_that_are_akin_or_hold_numbers_tell_them(ours, theirs):
    source, target = towers(*ours), towers(*reversed(theirs))
    tg.load(target, source.state_dict(), policy=LENIENT)
    assert all(torch.equal(target[b]["fc1"].weight, source[a]["fc1"].weight) for a, b in zip(ours, theirs, strict=True))


def test_shapes_tell_them():
    source, target = towers("img", "txt", rows=(16, 12)), towers("tower_a", "tower_b", rows=(12, 16))
    plan = tg.plan(target, source.state_dict(), policy=LENIENT)
    assert plan.by_slot["tower_a.fc1.weight"].feeds[0].key == "txt.fc1.weight"
    assert not plan.doubtful


def decoder(name, order):
    made = {"stem": nn.Conv2d(3, 8, 1)}
    for number in order:
        made[f"{name}{number}"] = nn.ModuleDict({"up": nn.ConvTranspose2d(8, 8, 2), "conv": nn.Conv2d(16, 8, 3)})
    return nn.ModuleDict(made)


def test_a_decoder_may_be_counted_from_either_end_also_where_the_rest_of_its_names_agrees():
    plan = tg.plan(decoder("dec", (2, 1)), decoder("up", (1, 2)).state_dict())
    assert plan.by_slot["dec1.up.weight"].certainty is Certainty.DOUBT
    wrapped = {f"module.{k}": v for k, v in decoder("up", (1, 2)).state_dict().items()}
    assert not tg.plan(decoder("up", (1, 2)), wrapped).doubtful


def gated(**layers):
    return nn.ModuleDict(
        {
            "h": nn.ModuleList(
                nn.ModuleDict({"mlp": nn.ModuleDict({k: nn.Linear(*v) for k, v in layers.items()})}) for _ in range(3)
            )
        }
    )


def test_beside_a_way_down_of_its_own_name_the_first_layer_is_up_and_the_second_the_gate():
    source = gated(w1=(8, 20), w2=(8, 20), c_proj=(20, 8))
    target = gated(gate_proj=(8, 20), up_proj=(8, 20), down_proj=(20, 8))
    tg.load(target, source.state_dict())
    ours, theirs = source["h"][1]["mlp"], target["h"][1]["mlp"]
    assert torch.equal(theirs["up_proj"].weight, ours["w1"].weight)
    assert torch.equal(theirs["gate_proj"].weight, ours["w2"].weight)


def crosswise(one: str, other: str) -> Matching:
    """Two layers of one size, of which each was given the other's weights."""
    a, b = (Leaf(name=name, shape=(4, 4), dtype=DType.F32, keys=(name,)) for name in (one, other))
    why = Why("structure", "stands where it does")
    return Matching(
        matches=(Match(target=a, source=b, why=why), Match(target=b, source=a, why=why)),
        free_targets=(),
        free_sources=(),
    )


def finished(matching: Matching) -> Finished:
    models = Models(Target((), {}))
    return Finished(matching=matching, sides=((), ()), naming=Naming({}, ()), keys=(), models=models)


def test_two_names_of_both_sides_go_crosswise_only_in_doubt():
    crossed = crosswise("stem.cv1.weight", "stem.cv2.weight")
    doubts = crossed_names(finished(crossed))
    assert doubts.keys() == {m.target.name for m in crossed.matches}
    assert all("both names, stem.cv1 and stem.cv2" in said for said in doubts.values())


def test_members_of_a_list_may_be_counted_from_the_other_end():
    assert not crossed_names(finished(crosswise("stages.0.weight", "stages.1.weight")))


@pytest.mark.parametrize("back", [False, True])
def test_a_tower_that_lacks_a_part_is_not_replaced_by_the_one_beside_it(*, back):
    """The file's `teacher` has no head; that does not make the model's `teacher` its `student`."""

    def tower(name, *more):
        return {f"{name}.{part}.weight": torch.zeros(8, 8) for part in ("fc1", "fc2", "fc3", *more)}

    both, one = tower("student", "head") | tower("teacher"), tower("net.teacher", "head")
    plan = tg.plan(*((both, one) if back else (one, both)))
    wrong = [step for step in plan.steps if step.feeds and "student" in step.slot.name + step.feeds[0].key]
    assert {step.certainty for step in wrong} <= {Certainty.DOUBT}
