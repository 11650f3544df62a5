"""Which number of an optimizer's state is which parameter, where only order and shapes could tell."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.tuning import stored_optimizer


class Unsorted(nn.Module):
    """Its layers come in another order than their names, and their shapes don't tell them apart."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)
        self.z, self.y = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.y(self.z(self.b(self.a(x)))))


def kept_apart(folder, shard_size=None):
    """Save a model as the safetensors library does, sorted by type and name, and its optimizer beside it."""
    old = Unsorted()
    optimizer = torch.optim.Adam(old.parameters())
    old(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    state = old.state_dict()
    order = sorted(state, key=lambda key: (state[key].dtype != torch.int64, key))
    saved = tg.save(folder / "model.safetensors", {key: state[key] for key in order}, shard_size=shard_size)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return old, optimizer, saved.path


@pytest.mark.parametrize("classes", [3, 7])
@pytest.mark.parametrize("shard_size", [None, 60])
def test_a_file_sorted_by_type_and_name_has_lost_the_order(tmp_path, classes, shard_size):
    old, optimizer, path = kept_apart(tmp_path, shard_size)
    model = Unsorted(classes)
    report = tg.load(model, path)
    new = torch.optim.Adam(model.parameters())
    with pytest.raises(tg.UsageError, match=r"sorted by name.*; give names="):
        tg.optimizer_state(model, new, report, tmp_path / "optimizer.pt")
    names = [name for name, _ in old.named_parameters()]
    tg.optimizer_state(model, new, report, tmp_path / "optimizer.pt", names=names)
    was, now = (dict(one.named_parameters()) for one in (old, model))
    for name in names if classes == 3 else names[:-1]:
        assert torch.equal(new.state[now[name]]["exp_avg"], optimizer.state[was[name]]["exp_avg"])


def test_layers_that_a_sorted_file_has_beside_leave_the_order_open(tmp_path):
    old = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "zab"})
    optimizer = torch.optim.Adam(old.parameters())
    sum(p.square().sum() for p in old.parameters()).backward()
    optimizer.step()
    tg.save(tmp_path / "model.safetensors", dict(sorted(old.state_dict().items())))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "ab"})
    report = tg.load(model, tmp_path / "model.safetensors")
    with pytest.raises(tg.UsageError, match="sorted by name"):
        tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, tmp_path / "optimizer.pt")


def test_a_way_that_is_left_of_too_many_is_not_taken_for_the_only_one(monkeypatch):
    old, model = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    optimizer = torch.optim.Adam([{"params": list(layer.parameters())} for layer in reversed(old)])
    old(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    kept = {"model": old.state_dict(), "optimizer": optimizer.state_dict()}
    report = tg.load(model, kept)
    monkeypatch.setattr(stored_optimizer, "MAX_PARTIAL_WAYS", 1)
    with pytest.raises(tg.UsageError, match="2 groups of parameters without names, and there is more than one way"):
        tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, kept)


def saved_of(parts):
    """Return what was saved of networks, the first of which was optimized by its own names, and that optimizer."""
    network = next(iter(parts.values()))
    optimizer = torch.optim.Adam(network.named_parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    kept = optimizer.state_dict()
    kept["param_groups"][0]["param_names"] = [name for name, _ in network.named_parameters()]
    state = {f"{path}.{name}": value for path, part in parts.items() for name, value in part.state_dict().items()}
    return {"model": state, "optimizer": kept}, optimizer


@pytest.mark.parametrize("others", [(), ("ema",)])
def test_an_optimizer_may_name_parameters_without_the_wrapper_of_the_checkpoint(others):
    old, model = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))
    file, before = saved_of({"module": old, **{path: nn.Sequential(nn.Linear(3, 3)) for path in others}})
    optimizer = torch.optim.Adam(model.parameters())
    carried = tg.optimizer_state(model, optimizer, tg.load(model, file, rename={"module.": ""}), file)
    assert carried.carried == {"0.weight": "module.0.weight", "0.bias": "module.0.bias"}
    assert torch.equal(optimizer.state[model[0].weight]["exp_avg"], before.state[old[0].weight]["exp_avg"])


def in_containers(names, states, optimizer):
    return {**dict(zip(names, states, strict=True)), "optimizer": optimizer}


def in_one_state_dict(names, states, optimizer):
    both = zip(names, states, strict=True)
    return {"model": {f"{part}.{key}": t for part, state in both for key, t in state.items()}, "optimizer": optimizer}


@pytest.mark.parametrize("form", [in_containers, in_one_state_dict])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("names", "loaded", "refused"),
    [
        (("model", "best"), "model", ""),
        (("model", "best"), "best", "seems to be for .*model, and what was loaded are other weights"),
        (("student", "teacher"), "teacher", "seems to be for .*student"),
        (("first", "second"), "first", "may be for .*first or for .*second, which are built alike"),
    ],
)
def test_state_goes_to_no_other_weights_of_the_same_build(form, named, names, loaded, refused):
    old, other, model = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)) for _ in range(3))
    optimizer = torch.optim.Adam(old.parameters())
    old(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    kept = optimizer.state_dict()
    if named:
        kept["param_groups"][0]["param_names"] = [name for name, _ in old.named_parameters()]
    file = form(names, [old.state_dict(), other.state_dict()], kept)
    where = {"rename": {f"{loaded}.": ""}} if form is in_one_state_dict else {"prefer": loaded}
    report = tg.load(model, file, **where)
    new = torch.optim.Adam(model.parameters())
    if not refused:
        assert not tg.optimizer_state(model, new, report, file).fresh
        return
    with pytest.raises(tg.UsageError, match=refused):
        tg.optimizer_state(model, new, report, file)
    assert not new.state
    said = [step.feeds[0].key for step in report.plan.steps]
    assert not tg.optimizer_state(model, new, report, file, names=said).fresh
