"""A file with an optimizer's state and no weights: shown by inspect, carried on by optimizer_state, never loaded."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import torchgraft
from torchgraft.core.errors import UnsupportedCheckpointError

OPTIMIZERS = {
    "adam": torch.optim.AdamW,
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rms": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def trained(model, make):
    optimizer = make(model.parameters())
    model(torch.rand(5, 4)).square().sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.fixture(params=OPTIMIZERS)
def state(request, model):
    return trained(model, OPTIMIZERS[request.param])


def flat(state):
    return {f"state.{who}.{name}": v.clone() for who, held in state["state"].items() for name, v in held.items()}


def write(form, state, folder):
    path = folder / "o.pt"
    if form == "flat":
        save_file({k: v.contiguous() for k, v in flat(state).items()}, path)
    else:
        torch.save({"bare": state, "named": {"optimizer": state, "epoch": 3}}[form], path)
    return path


@pytest.mark.parametrize("form", ["bare", "named", "flat"])
def test_it_is_refused_by_load_and_shown_by_inspect(form, state, model, tmp_path):
    if form == "flat" and not any(name.endswith(("exp_avg", "buffer", "square_avg")) for name in flat(state)):
        pytest.skip("sums and steps alone may be anything")
    path = write(form, state, tmp_path)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for refused in (
        lambda: torchgraft.load(model, path),
        lambda: torchgraft.plan(model, path),
        lambda: torchgraft.convert(path, tmp_path / "out.safetensors"),
    ):
        with pytest.raises(UnsupportedCheckpointError, match=r"o\.pt: only optimizer state \(no weights of a model\)"):
            refused()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not (tmp_path / "out.safetensors").exists()
    found = torchgraft.inspect(path)
    assert [n.role for n in found.networks] == ["optimizer"]
    assert "an optimizer's state, no weights of a model" in str(found)
    assert len(found.specs) == len(flat(state))


def test_a_dictionary_is_refused_as_well(state, model):
    with pytest.raises(UnsupportedCheckpointError, match="only optimizer state"):
        torchgraft.load(model, state)


def test_its_state_is_carried_on(model, tmp_path):
    state = trained(model, torch.optim.AdamW)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    torch.save(state, tmp_path / "o.pt")
    fresh = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    report = torchgraft.load(fresh, tmp_path / "m.pt")
    optimizer = torch.optim.AdamW(fresh.parameters())
    carried = torchgraft.optimizer_state(fresh, optimizer, report, tmp_path / "o.pt")
    assert len(carried.carried) == 4
    found = optimizer.state_dict()["state"]
    assert all(torch.equal(found[n]["exp_avg"], state["state"][n]["exp_avg"]) for n in range(4))


def test_weights_of_such_names_are_weights(model, tmp_path):
    torch.save({"mean": torch.ones(2), "net.step": torch.ones(2), "sum": torch.ones(3)}, tmp_path / "w.pt")
    assert [n.role for n in torchgraft.inspect(tmp_path / "w.pt").networks] == ["model"]
