"""What is left over is told of: nothing is called an alias, or an echo, by chance."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def stack(depth):
    return nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))})


def test_a_name_that_another_tensor_has_taken_is_no_alias():
    deep, shallow = stack(4), stack(2)
    report = tg.load(shallow, deep, layers={"layers": [1, 3]})
    assert torch.equal(shallow["layers"][0].weight, deep["layers"][1].weight)
    unused = {u.spec.name: u for u in report.plan.unused}
    assert set(unused) == {f"layers.{i}.{role}" for i in (0, 2) for role in ("weight", "bias")}
    assert not any(u.quiet for u in unused.values())
    assert unused["layers.0.weight"].why.text == "layers= passes over it"


def test_layers_that_the_picks_leave_out_are_told_on_both_sides():
    for path in ("layers", "net.layers"):
        plan = tg.plan(nn.ModuleDict({"net": stack(2)}), stack(2), layers={path: [0]})
        assert {s.slot.name: s.why.text for s in plan.fresh} == {
            f"net.layers.1.{role}": "layers= gives it no layer of the file" for role in ("weight", "bias")
        }
        assert {(u.spec.name, u.why.text, u.similar) for u in plan.unused} == {
            (f"layers.1.{role}", "layers= passes over it", ()) for role in ("weight", "bias")
        }


def test_a_layer_that_the_picks_leave_out_is_not_filled_from_another_list():
    def two_lists(first, second):
        lists = {"encoder": stack(first)["layers"], "decoder": stack(second)["layers"]}
        return nn.ModuleDict(lists)

    model, source = two_lists(3, 2), two_lists(4, 3)
    plan = tg.load(model, source, layers={"encoder": [2]}).plan
    assert torch.equal(model["encoder"][0].weight, source["encoder"][2].weight)
    assert {step.slot.owner for step in plan.fresh} == {"encoder.1", "encoder.2"}


def test_a_second_name_of_a_tied_tensor_is_an_alias():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    report = tg.load(
        model, {"0.weight": torch.eye(4), "1.weight": torch.eye(4), "0.bias": torch.ones(4), "1.bias": torch.ones(4)}
    )
    assert [(u.spec.name, u.quiet, u.why.rule) for u in report.plan.unused] == [("1.weight", True, "alias")]
    same = "1 tensor of the checkpoint is not needed: the same values as another that is used (1.weight)"
    assert f"harmless: {same}\n" in str(report)


class Tied(nn.Module):
    def __init__(self, *, tied):
        super().__init__()
        self.embed, self.layer = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 9, bias=False)
        if tied:
            self.head.weight = self.embed.weight


@pytest.mark.parametrize(("old", "new"), [("", ""), ("module.", ""), ("", "module."), ("backbone.", "trunk.")])
def test_an_untied_head_is_a_conflict_behind_any_prefix(old, new):
    """The head found no place behind a prefix, and what the file has of its own values was left out."""
    source, model = Tied(tied=False), Tied(tied=True)
    for part in reversed(new.split(".")[:-1]):
        model = nn.ModuleDict({part: model})
    state = {old + key: value for key, value in source.state_dict().items()}
    with pytest.raises(
        tg.PlanRefusedError, match=r"head.weight and .*embed.weight are one tensor in the model \(tied\)"
    ):
        tg.load(model, state)
    state[f"{old}head.weight"] = state[f"{old}embed.weight"].clone()
    report = tg.load(model, state)
    assert [(u.quiet, u.why.rule) for u in report.plan.unused] == [(True, "alias")]


class Words(nn.Module):
    def __init__(self, *, tied: bool, around: str = ""):
        super().__init__()
        body = nn.ModuleDict({"embed_tokens": nn.Embedding(30, 8), "layers": layers(9)})
        self.model = nn.ModuleDict({around: body, "vision": nn.Linear(2, 2)}) if around else body
        self.lm_head = nn.Linear(8, 30, bias=False)
        if tied:
            self.lm_head.weight = body["embed_tokens"].weight


def layers(depth):
    return nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))


def test_an_untied_head_is_a_conflict_with_a_table_behind_another_prefix_than_its_own():
    """The head has its name in both, and filled the table; what the file has in the table was called without a place."""
    state, model = dict(sorted(Words(tied=False).state_dict().items())), Words(tied=True, around="language_model")
    both = r"model.embed_tokens.weight and lm_head.weight are one tensor in the model \(tied\)"
    with pytest.raises(tg.PlanRefusedError, match=both):
        tg.load(model, state)
    state["model.embed_tokens.weight"] = state["lm_head.weight"].clone()
    assert all(unused.quiet for unused in tg.load(model, state).plan.unused)


def test_a_second_name_of_other_values_is_not_called_harmless():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    for verdict in (tg.Verdict.REFUSE, tg.Verdict.WARN):
        plan = tg.plan(
            model, {"0.weight": torch.eye(4), "1.weight": torch.ones(4, 4)}, policy=tg.Policy(conflict=verdict)
        )
        assert "hold different values in the file" in str(plan)
        assert "harmless" not in str(plan)


def test_counters_and_copies_are_told_apart():
    state = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)).state_dict()
    copies = {f"old.{name}": state[name].clone() for name in ("0.weight", "1.weight")}
    plan = tg.plan(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), state | copies)
    counters, same = str(plan).split("harmless:\n")[1].splitlines()[:2]
    assert counters.strip() == "1 tensor of the checkpoint is not needed: counters, indices and the like"
    assert same.strip() == (
        "2 tensors of the checkpoint are not needed: the same values as others that are used (old.{0-1}.weight)"
    )


def test_untrained_norms_of_unused_layers_are_no_echoes():
    def norms(depth):
        return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(depth)))

    report = tg.load(norms(1), norms(2))
    assert {u.spec.name for u in report.plan.unused if not u.quiet} == {
        "1.0.weight",
        "1.0.bias",
        "1.1.weight",
        "1.1.bias",
    }


def test_a_true_repetition_is_an_echo():
    state = {"0.weight": torch.randn(8, 8), "0.bias": torch.randn(8)}
    report = tg.load(nn.Sequential(nn.Linear(8, 8)), state | {"spare.weight": state["0.weight"].clone()})
    (unused,) = report.plan.unused
    assert (unused.spec.name, unused.quiet, unused.why.rule) == ("spare.weight", True, "echo")
    assert unused.same_as == report.plan.steps[0].feeds[0].key


def test_a_second_name_of_a_tensor_that_does_not_fit_has_its_place_and_says_why():
    def detector(classes):
        net = nn.ModuleDict({"decoder": nn.ModuleDict({"box": nn.Linear(4, 4), "head": nn.Linear(4, classes)})})
        net["head"] = net["decoder"]["head"]
        return net

    unused = {u.spec.name: u.why.text for u in tg.plan(detector(3), detector(9).state_dict()).unused}
    assert set(unused) == {f"{path}.{role}" for path in ("decoder.head", "head") for role in ("weight", "bias")}
    assert set(unused.values()) == {"9 rows in the file, 3 in the model"}


def test_a_file_that_numbers_its_tensors_is_told_what_it_lacks():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    file = {f"layers.{name}.vars.{n}": torch.randn(4) for name in ("conv", "norm") for n in range(3)}
    with pytest.raises(tg.PlanRefusedError, match=r"the file numbers what its layers hold \(layers\.conv\.vars\.9\)"):
        tg.load(net, {"layers.conv.vars.9": torch.randn(3, 3, 3, 4), **file})
