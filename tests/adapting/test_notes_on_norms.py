"""What is told of norms whose scales and statistics don't both come from the file."""

from __future__ import annotations

from torch import nn

import torchgraft as tg


def test_norms_without_statistics_are_told() -> None:
    """Where parameters alone were saved, a norm gets its scale, and keeps statistics that are those of none."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    (note,) = tg.plan(net, dict(net.named_parameters())).notes
    assert note.startswith("1, 3: the file has scales and no running statistics")
    assert not tg.plan(net, dict(net.named_parameters()), fresh=["1.running_*", "3.running_*"]).notes
    assert not tg.plan(net, net.state_dict()).notes
