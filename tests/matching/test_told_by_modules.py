"""A layer that its name doesn't tell goes where all else of its module went, unless something speaks for another task."""

import torch
from torch import nn

import torchgraft as tg


def body():
    return nn.Sequential(*[nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)) for _ in range(6)])


def detector(around, head, **more):
    """Return a network whose body has one name everywhere, and whose head has these layers."""
    return nn.ModuleDict({"body": body(), around: nn.ModuleDict(head), **more})


def layers(conv, scores, last):
    return {conv: nn.Conv2d(8, 8, 3, padding=1), scores: nn.Conv2d(8, 3, 1), last: nn.Conv2d(8, 12, 1)}


OURS = "rpn_head", layers("rpn_conv", "rpn_cls", "rpn_reg")
THEIRS = "rpn", layers("conv", "cls_logits", "bbox_pred")


def fed(model, source):
    plan = tg.plan(model, source.state_dict(), on_doubt="skip")
    return {step.slot.name: step.feeds[0].key for step in plan.steps if step.feeds}


def test_the_rest_of_a_module_goes_with_it():
    assert fed(detector(*THEIRS), detector(*OURS))["rpn.bbox_pred.weight"] == "rpn_head.rpn_reg.weight"


def test_in_any_order_of_registration():
    turned = "rpn_head", dict(reversed(OURS[1].items()))
    assert fed(detector(*THEIRS), detector(*turned))["rpn.bbox_pred.weight"] == "rpn_head.rpn_reg.weight"


def test_not_where_a_layer_beside_it_has_the_same_name_on_both_sides():
    ours = "rpn", layers("conv", "cls_logits", "rpn_reg")
    assert "rpn.bbox_pred.weight" not in fed(detector(*THEIRS), detector(*ours))


def test_not_where_something_else_is_left_over():
    more = detector(*OURS, depth=nn.Conv2d(8, 1, 1))
    assert "rpn.bbox_pred.weight" not in fed(detector(*THEIRS), more)


def test_not_where_nothing_tells_the_module():
    ours = "aux", {"a": nn.Conv2d(8, 9, 5), "b": nn.Conv2d(8, 3, 1), "c": nn.Conv2d(8, 12, 1)}
    theirs = "main", {"x": nn.Conv2d(8, 9, 5), "y": nn.Conv2d(8, 3, 1), "z": nn.Conv2d(8, 12, 1)}
    assert not any(name.startswith("main.") for name in fed(detector(*theirs), detector(*ours)))


def test_no_table_becomes_a_head():
    ours = "embed", {"conv": nn.Conv2d(8, 8, 3), "scores": nn.Conv2d(8, 3, 1), "kinds": nn.Embedding(2, 8)}
    theirs = (
        "out",
        {"conv_1": nn.Conv2d(8, 8, 3), "cls_scores": nn.Conv2d(8, 3, 1), "final": nn.Linear(8, 2, bias=False)},
    )
    assert "out.final.weight" not in fed(detector(*theirs), detector(*ours))


def test_values_arrive():
    ours, theirs = detector(*OURS), detector(*THEIRS)
    tg.load(theirs, ours.state_dict())
    assert torch.equal(theirs["rpn"]["bbox_pred"].weight, ours["rpn_head"]["rpn_reg"].weight)
