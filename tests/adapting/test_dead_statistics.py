"""Statistics that torch wrote for instance norms before 0.4 were never used: their loss is no news."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def net(norm):
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 2, 3))


def file(prefix="", *, counter=False):
    made = {f"{prefix}{name}": torch.randn_like(value) for name, value in net(nn.ReLU()).state_dict().items()}
    made |= {f"{prefix}1.running_{kind}": torch.rand(4) for kind in ("mean", "var")}
    if counter:
        made[f"{prefix}1.num_batches_tracked"] = torch.tensor(5)
    return made


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_those_of_an_instance_norm_are_harmless(affine, prefix):
    held = file(prefix)
    if affine:
        held |= {f"{prefix}1.weight": torch.rand(4), f"{prefix}1.bias": torch.rand(4)}
    report = tg.load(net(nn.InstanceNorm2d(4, affine=affine)), held)
    assert all(unused.quiet for unused in report.plan.unused)
    assert "harmless: 2 tensors of the checkpoint" in str(report)


@pytest.mark.parametrize(("norm", "counter"), [(nn.ReLU(), False), (nn.InstanceNorm2d(4), True)])
def test_others_are_told(norm, counter):
    """Those with a counter of batches were used, and are not by this model."""
    report = tg.load(net(norm), file(counter=counter))
    loud = [unused.spec.name for unused in report.plan.unused if not unused.quiet]
    assert loud == ["1.running_mean", "1.running_var"]


def test_an_instance_norm_with_statistics_gets_them():
    model, held = net(nn.InstanceNorm2d(4, track_running_stats=True)), file(counter=True)
    tg.load(model, held)
    assert torch.equal(model[1].running_var, held["1.running_var"])
