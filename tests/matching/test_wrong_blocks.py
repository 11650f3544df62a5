"""A leftover that has the same words under another number is no counterpart."""

from torch import nn

import torchgraft as tg


def stage(width, out, *, wide):
    parts = {"conv1": nn.Conv2d(width, out, 1 if wide else 3), "bn1": nn.BatchNorm2d(out)}
    if wide:
        parts |= {
            "conv3": nn.Conv2d(out, 4 * out, 1),
            "down": nn.Sequential(nn.Conv2d(width, 4 * out, 1), nn.BatchNorm2d(4 * out)),
        }
    elif width != out:
        parts["down"] = nn.Sequential(nn.Conv2d(width, out, 1), nn.BatchNorm2d(out))
    return nn.ModuleDict(parts)


def net(*, wide):
    widths, grow = [4, 8, 16], 4 if wide else 1
    inner = [4, *(grow * w for w in widths)]
    return nn.ModuleDict({f"layer{n}": nn.Sequential(stage(inner[n - 1], widths[n - 1], wide=wide)) for n in (1, 2, 3)})


def test_norms_of_equal_width_in_other_stages_are_left_alone():
    plan = tg.plan(net(wide=False), net(wide=True), on_doubt="skip", min_coverage=0.0)
    moved = [s.slot.name for s in plan.steps if s.feeds and s.feeds[0].key.split(".")[0] != s.slot.name.split(".")[0]]
    assert moved == []
