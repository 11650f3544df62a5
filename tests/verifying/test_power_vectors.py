"""Vectors of spectral norms: averaged with the weights they fit none, so that those of the live weights are taken."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import torchgraft as tg


def net():
    made = nn.Sequential(spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), spectral_norm(nn.Conv2d(4, 5, 3)))
    with torch.no_grad():
        for value in made.state_dict().values():
            value.normal_()
            if value.ndim == 1:
                value.div_(value.norm())
    return made


def vectors(state):
    return {name: value for name, value in state.items() if name.endswith(("_u", "_v"))}


def averaged(state):
    return {name: value * 0.4 if name in vectors(state) else value for name, value in state.items()}


def test_an_average_takes_the_vectors_of_the_live_weights_and_says_so():
    live, mean, model = net().state_dict(), averaged(net().state_dict()), net()
    report = tg.load(model, {"model": live, "ema": mean}, prefer="ema")
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in vectors(live).items())
    assert all(torch.equal(state[name], mean[name]) for name in state.keys() - vectors(live).keys())
    assert "vectors of a spectral norm come from network 'model'" in str(report)
    assert not report.plan.warnings


def test_a_kept_plan_does_the_same(tmp_path):
    checkpoint = {"model": net().state_dict(), "ema": averaged(net().state_dict())}
    torch.save(checkpoint, tmp_path / "run.pt")
    model = net()
    tg.save_plan(tmp_path / "plan.json", tg.plan(model, tmp_path / "run.pt", prefer="ema"))
    tg.load(model, tmp_path / "run.pt", plan=tmp_path / "plan.json")
    live = vectors(checkpoint["model"])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in live.items())


@pytest.mark.parametrize("short", [True, False])
def test_vectors_stay_where_nothing_better_is_known(short):
    """An average without live weights beside it is told; vectors of length 1 are as good as any."""
    mean = net().state_dict()
    checkpoint = {"ema": averaged(mean)} if short else {"model": net().state_dict(), "ema": mean}
    model = net()
    report = tg.load(model, checkpoint, prefer="ema")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in checkpoint["ema"].items())
    assert [one.kind for one in report.plan.warnings] == ["buffers"] * short
