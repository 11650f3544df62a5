"""Optimizer state follows the weights by name, and is refused where it can't be told whose it is."""

from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg


def trained(model, optimizer, steps=3):
    """Train a little and return what a training script saves."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3, generator=generator)).square().mean().backward()
        optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": steps}


def net(*, classes=2, extra=False):
    layers = [
        nn.Linear(3, 4),
        nn.BatchNorm1d(4),
        *([nn.Linear(4, 4)] if extra else []),
        nn.ReLU(),
        nn.Linear(4, classes),
    ]
    return nn.Sequential(*layers)


def same_state(new, new_parameter, old, old_parameter):
    a, b = new.state[new_parameter], old.state[old_parameter]
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) and a[k].data_ptr() != b[k].data_ptr() for k in a)


def decay_groups(model):
    wide = [p for p in model.parameters() if p.ndim > 1]
    return [{"params": wide, "weight_decay": 0.1}, {"params": [p for p in model.parameters() if p.ndim < 2]}]


KINDS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_file", [False, True])
def test_the_same_model_trains_on_as_if_nothing_had_happened(kind, as_file, tmp_path):
    torch.manual_seed(0)
    old = net()
    old_optimizer = KINDS[kind](old.parameters())
    kept = trained(old, old_optimizer)
    if as_file:
        torch.save(kept, tmp_path / "kept.pt")
        kept = tmp_path / "kept.pt"
    model = net()
    report = tg.load(model, kept)
    optimizer = KINDS[kind](model.parameters())
    done = tg.optimizer_state(model, optimizer, report, kept)
    assert not done.fresh
    assert done.carried == {name: name for name, _ in model.named_parameters()}
    for mine, theirs in zip(model.parameters(), old.parameters(), strict=True):
        assert same_state(optimizer, mine, old_optimizer, theirs)
    trained(old, old_optimizer)
    trained(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), old.parameters(), strict=True))


def test_inserted_layer_and_other_head_start_fresh_and_are_named():
    old = net()
    old_optimizer = torch.optim.Adam(old.parameters())
    kept = trained(old, old_optimizer)
    model = net(classes=5, extra=True)
    report = tg.load(model, kept)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    done = tg.optimizer_state(model, optimizer, report, kept)
    assert set(done.carried) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert dict(done.fresh) == dict.fromkeys(("2.weight", "2.bias", "4.weight", "4.bias"), "not loaded")
    assert same_state(optimizer, model[1].bias, old_optimizer, old[1].bias)
    assert model[2].weight not in optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "4 parameters keep the old one, 4 start fresh" in str(done)


@pytest.mark.parametrize("renamed", [False, True])
def test_groups_by_kind_are_told_apart_by_shape(renamed):
    old = net()
    old_optimizer = torch.optim.AdamW(decay_groups(old))
    kept = trained(old, old_optimizer)
    if renamed:
        kept["model"] = {f"module.{k}": v for k, v in kept["model"].items()}
    model = net()
    report = tg.load(model, kept)
    optimizer = torch.optim.AdamW(model.parameters())
    done = tg.optimizer_state(model, optimizer, report, kept)
    assert done.carried["3.weight"] == ("module.3.weight" if renamed else "3.weight")
    for mine, theirs in zip(model.parameters(), old.parameters(), strict=True):
        assert same_state(optimizer, mine, old_optimizer, theirs)


def alike():
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def head_first(model):
    return [{"params": model[1].parameters()}, {"params": model[0].parameters()}]


def test_groups_that_can_be_dealt_out_in_two_ways_are_refused_until_named():
    old = alike()
    old_optimizer = torch.optim.Adam(head_first(old))
    kept = trained(old, old_optimizer)
    model = alike()
    report = tg.load(model, kept)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(tg.UsageError, match=r"2 groups .* more than one way .* names="):
        tg.optimizer_state(model, optimizer, report, kept)
    assert not optimizer.state
    tg.optimizer_state(model, optimizer, report, kept, names=["1.weight", "1.bias", "0.weight", "0.bias"])
    assert same_state(optimizer, model[0].weight, old_optimizer, old[0].weight)


def test_names_in_the_file_settle_it():
    old = alike()
    named = dict(old.named_parameters())
    order = ["1.weight", "0.weight", "0.bias", "1.bias"]
    old_optimizer = torch.optim.Adam([(name, named[name]) for name in order])
    kept = trained(old, old_optimizer)
    if "param_names" not in kept["optimizer"]["param_groups"][0]:
        pytest.skip("this torch keeps no names")
    model = alike()
    optimizer = torch.optim.Adam(model.parameters())
    tg.optimizer_state(model, optimizer, tg.load(model, kept), kept)
    for mine, theirs in zip(model.parameters(), old.parameters(), strict=True):
        assert same_state(optimizer, mine, old_optimizer, theirs)


def test_state_that_the_file_keys_by_name_needs_no_order():
    old = alike()
    kept = trained(old, torch.optim.Adam(old.parameters()))
    names = [name for name, _ in old.named_parameters()]
    state = {names[at]: value for at, value in reversed(kept["optimizer"]["state"].items())}
    kept["optimizer"] = {"state": state, "param_groups": [{"params": names[::-1]}]}
    model = alike()
    optimizer = torch.optim.Adam(model.parameters())
    tg.optimizer_state(model, optimizer, tg.load(model, kept), kept)
    assert torch.equal(optimizer.state[model[1].bias]["exp_avg"], state["1.bias"]["exp_avg"])


def test_counts_that_differ_are_refused_with_both_numbers():
    old = net()
    kept = trained(old, torch.optim.Adam(old[0].parameters()))
    model = net()
    report = tg.load(model, kept)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(tg.UsageError, match=r"for 2 parameters .* has 6; give names="):
        tg.optimizer_state(model, optimizer, report, kept)
    done = tg.optimizer_state(model, optimizer, report, kept, names=["0.weight", "0.bias"])
    assert set(done.carried) == {"0.weight", "0.bias"}
    assert set(done.fresh.values()) == {"the old optimizer didn't have it"}


def test_shapes_that_differ_are_refused():
    old = net()
    kept = trained(old, torch.optim.Adam(reversed(list(old.parameters()))))
    model = net()
    report = tg.load(model, kept)
    with pytest.raises(tg.UsageError, match=r"number 0 should belong to 0.weight \[4, 3\], but holds .*exp_avg"):
        tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, kept)


def test_a_file_sorted_by_name_has_lost_the_order():
    old = nn.ModuleDict({"z": nn.Linear(3, 3), "a": nn.Linear(3, 3)})
    optimizer = torch.optim.Adam(old.parameters())
    sum(p.sum() for p in old.parameters()).backward()
    optimizer.step()
    kept = {"model": dict(sorted(old.state_dict().items())), "optimizer": optimizer.state_dict()}
    model = nn.ModuleDict({"z": nn.Linear(3, 3), "a": nn.Linear(3, 3)})
    report = tg.load(model, kept)
    with pytest.raises(tg.UsageError, match="sorted by name"):
        tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, kept)


def test_another_kind_of_optimizer_is_refused_and_nothing_changes():
    old = net()
    kept = trained(old, torch.optim.SGD(old.parameters(), lr=0.1, momentum=0.9))
    model = net()
    report = tg.load(model, kept)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(tg.UsageError, match=r"keeps momentum_buffer, Adam keeps exp_avg, exp_avg_sq, step"):
        tg.optimizer_state(model, optimizer, report, kept)
    assert not optimizer.state


def test_plain_numbers_of_old_files_become_what_the_optimizer_keeps():
    old = net()
    kept = trained(old, torch.optim.Adam(old.parameters()))
    for state in kept["optimizer"]["state"].values():
        state["step"] = 3
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    tg.optimizer_state(model, optimizer, tg.load(model, kept), kept)
    step = optimizer.state[model[0].weight]["step"]
    assert torch.equal(step, torch.tensor(3.0))
    trained(model, optimizer, 1)


def test_fields_that_the_new_optimizer_lacks_are_dropped_and_said():
    old = net()
    kept = trained(old, torch.optim.Adam(old.parameters(), amsgrad=True))
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    done = tg.optimizer_state(model, optimizer, tg.load(model, kept), kept)
    assert done.dropped == ("max_exp_avg_sq",)
    assert "not used: max_exp_avg_sq" in str(done)


def test_several_optimizers_are_chosen_by_name_or_by_what_fits():
    old, other = net(), nn.Linear(7, 7)
    kept = trained(old, torch.optim.Adam(old.parameters()))
    second = torch.optim.Adam(other.parameters())
    other(torch.randn(2, 7)).sum().backward()
    second.step()
    kept["optimizer_d"] = second.state_dict()
    model = net()
    report = tg.load(model, kept)
    assert tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, kept).carried
    kept["optimizer_d"] = kept["optimizer"]
    with pytest.raises(tg.UsageError, match="prefer="):
        tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, kept)
    assert tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, kept, prefer="optimizer").carried


def test_lists_of_optimizers_and_a_file_of_its_own(tmp_path):
    old = net()
    kept = trained(old, torch.optim.Adam(old.parameters()))
    torch.save(kept["optimizer"], tmp_path / "optimizer.pt")
    listed = {"state_dict": kept["model"], "optimizer_states": [kept["optimizer"]]}
    model = net()
    report = tg.load(model, kept["model"])
    for checkpoint in (listed, tmp_path / "optimizer.pt"):
        assert len(tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, checkpoint).carried) == 6
    with pytest.raises(tg.UsageError, match=r"no optimizer state in it; if it lies in a file beside it \(optimizer.pt"):
        tg.optimizer_state(model, torch.optim.Adam(model.parameters()), report, kept["model"])


def test_lists_of_tensors_are_no_state_of_a_parameter():
    old = net()
    optimizer = torch.optim.LBFGS(old.parameters(), max_iter=3)
    x = torch.randn(8, 3)

    def loss():
        optimizer.zero_grad()
        value = old(x).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    kept = {"model": old.state_dict(), "optimizer": optimizer.state_dict()}
    model = net()
    report = tg.load(model, kept)
    with pytest.raises(tg.UsageError, match=r"keeps lists of tensors \(.*old_dirs.*\), as L-BFGS does"):
        tg.optimizer_state(model, torch.optim.LBFGS(model.parameters()), report, kept)


@pytest.mark.parametrize("names", ["0.weight", ["0.weight", "0.weight"]])
def test_names_are_a_list_without_repeats(names):
    old = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    kept = trained(old, torch.optim.Adam(old.parameters()))
    report = tg.load(old, kept)
    with pytest.raises(tg.UsageError, match="give a list of the old optimizer's parameters, each of them once"):
        tg.optimizer_state(old, torch.optim.Adam(old.parameters()), report, kept, names=names)


def test_what_is_no_optimizer_and_no_report_is_said_to_be_none():
    old = net()
    kept = trained(old, torch.optim.Adam(old.parameters()))
    model = net()
    report = tg.load(model, kept)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(tg.UsageError, match=r"optimizer is a StepLR: give a torch.optim.Optimizer"):
        tg.optimizer_state(model, torch.optim.lr_scheduler.StepLR(optimizer, 1), report, kept)
    with pytest.raises(tg.UsageError, match=r"report is a dict: give what load\(\) or plan\(\) returned"):
        tg.optimizer_state(model, optimizer, {}, kept)


def test_another_default_device_is_not_asked_for(tmp_path):
    old = net()
    torch.save(trained(old, torch.optim.Adam(old.parameters())), tmp_path / "kept.pt")
    model = net()
    with torch.device("meta"):
        report = tg.load(model, tmp_path / "kept.pt")
        optimizer = torch.optim.Adam(model.parameters())
        done = tg.optimizer_state(model, optimizer, report, tmp_path / "kept.pt")
    assert len(done.carried) == 6
    assert not any(t.is_meta for state in optimizer.state.values() for t in state.values())


def test_an_optimizer_of_another_model_is_refused():
    old = net()
    kept = trained(old, torch.optim.Adam(old.parameters()))
    model = net()
    report = tg.load(model, kept)
    with pytest.raises(tg.UsageError, match="build it from this model"):
        tg.optimizer_state(model, torch.optim.Adam(net().parameters()), report, kept)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=5), st.data())
def test_state_is_never_given_to_another_parameter(widths, data):
    """Random nets and groupings: what is carried is right; what can't be told is refused."""
    sizes = [3, *widths]
    old = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    parameters = list(old.parameters())
    side = [data.draw(st.integers(0, 1)) for _ in parameters]
    groups = [[p for p, s in zip(parameters, side, strict=True) if s == k] for k in (0, 1)]
    old_optimizer = torch.optim.Adam([{"params": g} for g in groups if g])
    kept = trained(old, old_optimizer)
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    report = tg.load(model, kept)
    optimizer = torch.optim.Adam(model.parameters())
    with suppress(tg.UsageError):
        done = tg.optimizer_state(model, optimizer, report, kept)
    if not optimizer.state:
        with pytest.raises(tg.UsageError, match="more than one way"):
            tg.optimizer_state(model, optimizer, report, kept)
        return
    assert not done.fresh
    for mine, theirs in zip(model.parameters(), parameters, strict=True):
        assert same_state(optimizer, mine, old_optimizer, theirs)


def exchanged(state):
    """Convert a state dict to other names, in another order, one matrix turned."""
    return {
        "b.weight": state["1.weight"],
        "b.bias": state["1.bias"],
        "a.weight": state["0.weight"].T,
        "a.bias": state["0.bias"],
    }


def test_state_of_a_converted_checkpoint_is_refused(tmp_path):
    old = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    saved = trained(old, torch.optim.Adam(old.parameters()))
    torch.save(saved, tmp_path / "old.pt")
    learned = tg.learn(exchanged, tmp_path / "old.pt", prefer="model")
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    report = tg.load(model, tmp_path / "old.pt", learned=learned, prefer="model")
    optimizer = torch.optim.Adam(model.parameters())
    tg.save_plan(tmp_path / "plan.json", report.plan)
    for made in (report, tg.read_plan(tmp_path / "plan.json")):
        with pytest.raises(tg.UsageError, match=r"through a learned conversion.*rename="):
            tg.optimizer_state(model, optimizer, made, tmp_path / "old.pt")
    assert not optimizer.state


def whole(*, averages):
    """What a trainer saves of a module that holds the network, its averages and a loss, and optimizes the network alone."""
    old = net()
    optimizer = torch.optim.AdamW(old.parameters())
    trained(old, optimizer)
    holder = nn.ModuleDict({"net": old, averages: net(), "loss": nn.Linear(2, 2)})
    return old, optimizer, {"state_dict": holder.state_dict(), "optimizer_states": [optimizer.state_dict()]}


@pytest.mark.parametrize("names", [None, "", "net."])
def test_state_for_one_part_of_the_file_goes_to_that_part(names):
    old, old_optimizer, file = whole(averages="ema")
    new = net(classes=5)
    optimizer = torch.optim.AdamW(new.parameters())
    given = {} if names is None else {"names": [names + name for name, _ in old.named_parameters()]}
    carried = tg.optimizer_state(new, optimizer, tg.load(new, file), file, **given)
    assert set(carried.fresh) == {"3.weight", "3.bias"}
    assert same_state(optimizer, new[0].weight, old_optimizer, old[0].weight)


def test_state_of_live_weights_is_not_taken_for_that_of_their_averages():
    *_, file = whole(averages="ema")
    new = net()
    report = tg.load(new, file, prefer="ema")
    with pytest.raises(tg.UsageError, match="6 parameters without names, the checkpoint has 14"):
        tg.optimizer_state(new, torch.optim.AdamW(new.parameters()), report, file)


def test_what_prefer_may_name_is_listed():
    *_, file = whole(averages="ema")
    with pytest.raises(tg.UsageError, match="its parts are 'net', 'ema', 'loss'"):
        tg.load(net(), file, prefer="ema_model")
