"""What the caller says of names must mean something in the file or in the model."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.matching.names.undotted import respelled


def net():
    return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 3) for _ in range(3)]), "head": nn.Linear(3, 2)})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rename": {"heads": "head"}}, r"rename: no tensor of the file is called 'heads'; did you mean 'head'"),
        (
            {"rename": {"layres.": "layers."}},
            r"rename: no tensor of the file is called 'layres\.'; did you mean 'layers\.'",
        ),
        ({"fan_out": {"layer": ["layers"]}}, r"fan_out: .*'layer'; did you mean 'layers'"),
        ({"layers": {"blocks": [0]}}, r"layers: the file has no list of layers at 'blocks'"),
        (
            {"layers": {"layers": [0, 7, 1]}},
            r"layers=\{'layers': ...\}: there is no layer 7 in the file; it has 0 to 2",
        ),
        (
            {"layers": {"layers": [0, 1, 2, 2]}},
            r"layers=\{'layers': ...\}: 4 layers are given, and the model has 3 there",
        ),
        (
            {"copies": {"haed": "head"}},
            r"copies: no module of the model or the file is called 'haed'; did you mean 'head'",
        ),
        (
            {"copies": {"head": "haed"}},
            r"copies=\{'head': 'haed'\}: no module of the model is called 'haed'; did you mean 'head'",
        ),
        (
            {"in_channels": {"head.weight": "nosuch"}},
            r"in_channels=\{'head.weight': 'nosuch'\}: .* accepted are 'repeat'",
        ),
        ({"rename": {"layers.*": "blocks.*"}}, r"rename: no .*; `\*` stands for itself here: write \{i\} for a number"),
        ({"rename": {"ayers.0": "layers.0"}}, r"rename: no tensor"),
        ({"rename": {"head": "haed"}}, r"rename: nothing in the model is called 'haed'; did you mean 'head'"),
        ({"rename": {"layers.{i}.": "layer.{i}."}}, r"rename: nothing .* 'layer.\{i\}.'; did you mean 'layers.0'"),
        ({"fresh": ["haed"]}, r"fresh: no tensor of the model is called 'haed'; did you mean 'head'"),
        ({"fresh": ["bias"]}, r"fresh: no .* 'bias'; did you mean 'layers\.\*\.bias' or 'head\.bias'"),
        ({"zero": ["layers.7"]}, r"zero: no tensor of the model is called 'layers.7'; did you mean 'layers.\d'"),
        ({"fan_out": {"head": ["head", "haed"]}}, r"fan_out: nothing in the model is called 'haed'; did"),
    ],
)
def test_a_rule_that_means_nothing_is_an_error(asked, said):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(tg.UsageError, match=said):
        tg.load(model, net().state_dict(), **asked)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_rename_that_leads_out_of_the_model_is_said():
    plan = tg.plan(net(), net().state_dict(), rename={"layers.1.": "nowhere.1."})
    assert plan.notes == ("rename: nothing in the model is called 'nowhere.1.': what it renames stays unused",)
    assert {u.spec.name for u in plan.unused} == {"layers.1.weight", "layers.1.bias"}


@pytest.mark.parametrize("asked", [{"rename": {"head": "nowhere"}}, {"fan_out": {"head": ["nowhere"]}}])
def test_what_is_led_out_of_the_model_is_left_out_though_its_shape_is_the_only_one(asked):
    model, file = net(), net().state_dict()
    before = model["head"].weight.clone()
    report = tg.load(model, file, **asked)
    assert {step.slot.name for step in report.plan.fresh} == {"head.weight", "head.bias"}
    assert torch.equal(model["head"].weight, before)


def test_later_rules_see_what_earlier_ones_made():
    file = {f"blocks.{k.partition('.')[2]}" if k.startswith("layers") else k: v for k, v in net().state_dict().items()}
    model = net()
    tg.load(model, file, rename={"blocks": "layers"}, layers={"layers": [2, 0, 0]})
    assert torch.equal(model["layers"][0].weight, file["blocks.2.weight"])
    assert torch.equal(model["layers"][2].weight, file["blocks.0.weight"])


@pytest.mark.parametrize("to", ["layers", "layers.", "model.layers.", "encoder.{i}.ffn"])
def test_a_rename_may_lead_to_a_wrapper_or_name_a_part_of_what_follows(to):
    """What a rule leads to needn't be a whole name: `encoder.0.ffn` is where names of the model go on."""
    model = nn.ModuleDict({"wrap": nn.Module()}) if "{i}" in to else net()
    if "{i}" in to:
        model["wrap"].encoder = nn.ModuleList(nn.ModuleDict({"ffn": nn.Linear(3, 3)}) for _ in range(3))
    state = {k.replace("layers", "blocks"): v for k, v in net().state_dict().items()}
    tg.load(model, state, rename={"blocks.{i}" if "{i}" in to else "blocks" + "." * to.endswith("."): to})
    filled = model["wrap"].encoder[1]["ffn"] if "{i}" in to else model["layers"][1]
    assert torch.equal(filled.weight, state["blocks.1.weight"])


@pytest.mark.parametrize("front", ["", "module.", "_orig_mod.module.", "model."])
def test_prefixes_are_found_behind_wrappers(front):
    file = {f"{front}enc.{k}": v for k, v in net().state_dict().items()}
    model = nn.ModuleDict({"a": net(), "b": net()})
    tg.load(model, file, fan_out={"enc": ["a", "b"]})
    assert all(torch.equal(v, file[f"{front}enc.{k.partition('.')[2]}"]) for k, v in model.state_dict().items())


def test_layer_scales_are_told_apart_under_other_names():
    def blocks(names):
        made = []
        for _ in range(3):
            parts = {"norm1": nn.LayerNorm(4), "fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)}
            block = nn.ModuleDict(parts)
            for name in names:
                owner, _, own = name.rpartition(".")
                if owner:
                    block[owner] = nn.Module()
                (block[owner] if owner else block).register_parameter(own, nn.Parameter(torch.randn(4)))
            made.append(block)
        return nn.ModuleDict({"blocks": nn.ModuleList(made)})

    file, model = blocks(["gamma_1", "gamma_2"]), blocks(["ls1.gamma", "ls2.gamma"])
    tg.load(model, file)
    for old, new in zip(file["blocks"], model["blocks"], strict=True):
        assert torch.equal(new["ls1"].gamma, old.gamma_1)
        assert torch.equal(new["ls2"].gamma, old.gamma_2)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.fc, self.norm2 = nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4)


@pytest.mark.parametrize("front", ["", "module.", "net.encoder."])
@pytest.mark.parametrize("joint", [".", "_"])
def test_numbers_are_spelled_in_several_ways(front, joint):
    file, model = (nn.ModuleDict({"blocks": nn.ModuleList(Pair() for _ in range(3))}) for _ in range(2))
    saved = {k: torch.randn(v.shape) for k, v in file.state_dict().items()}
    report = tg.load(model, {front + k.replace("norm", "norm" + joint): v for k, v in saved.items()})
    assert not report.plan.fresh
    assert all(torch.equal(v, saved[k]) for k, v in model.state_dict().items())


def test_numbers_behind_numbers_are_no_spelling():
    assert respelled(["blocks.1.2.weight"], ["blocks.12.weight"]) == {}
    assert respelled(["a.norm.1.weight", "a.norm_1.weight"], ["a.norm1.weight"]) == {}
    assert respelled(["norm.1.weight", "norm1.weight"], ["norm1.weight"]) == {}
    assert respelled(["m.x_1.w", "m.y.0.w"], ["x.1.w", "y0.w"]) == {"m.x_1.w": "m.x.1.w", "m.y.0.w": "m.y0.w"}


def test_a_module_is_respelled_whole_or_not_at_all() -> None:
    keys = ["enc.layer_0.q.kernel", "enc.layer_0.q.bias", "enc.layer_1.q.kernel"]
    assert respelled(keys, ["enc.layer.0.q.weight", "enc.layer.0.q.bias"]) == {
        "enc.layer_0.q.kernel": "enc.layer.0.q.kernel",
        "enc.layer_0.q.bias": "enc.layer.0.q.bias",
    }


def test_a_rename_is_told_once_for_a_module_and_not_for_each_of_its_tensors():
    plan = tg.plan(
        net(), {k.replace("layers", "blocks"): v for k, v in net().state_dict().items()}, rename={"blocks": "layers"}
    )
    assert [step.why.text for step in plan.steps[:2]] == ["blocks read as layers; same name"] * 2
    assert (
        "  layers.{0-2}.{weight,bias} <- blocks.{0-2}.{weight,bias}: blocks read as layers; same name"
        in str(plan).splitlines()
    )


def test_a_fan_out_goes_by_the_start_of_names_behind_wrappers_only():
    twins = nn.ModuleDict({"left": nn.Linear(4, 2), "right": nn.Linear(4, 2)})
    weights = nn.Linear(4, 2).state_dict()
    for before in ("", "module.", "module.model."):
        tg.load(twins, {f"{before}encoder.{n}": v for n, v in weights.items()}, fan_out={"encoder": ["left", "right"]})
        assert torch.equal(twins["left"].weight, twins["right"].weight)
    with pytest.raises(tg.UsageError, match="fan_out: no tensor of the file is called 'encoder'; did you mean"):
        tg.plan(twins, {f"decoder.encoder.{n}": v for n, v in weights.items()}, fan_out={"encoder": ["left", "right"]})


def test_what_stays_fresh_takes_no_tensor_away_from_what_has_its_shape():
    model = nn.ModuleDict({"old": nn.Linear(4, 4), "new": nn.Linear(4, 4)})
    plan = tg.plan(
        model, {"layer.weight": torch.randn(4, 4), "layer.bias": torch.randn(4)}, fresh=["old"], on_doubt="take"
    )
    assert [step.slot.name for step in plan.steps if step.feeds] == ["new.weight", "new.bias"]


def three():
    return nn.ModuleDict({name: nn.Linear(3, 3) for name in "abc"})


def shuffled(state, order):
    return {key: state[key] for key in sorted(state, key=lambda key: order.index(key[0]))}


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
@pytest.mark.parametrize("asked", [{"rename": {"a": "b"}}, {"fan_out": {"a": ["b", "b"]}}, {"copies": {"a": "b"}}])
def test_a_rule_comes_before_the_tensor_that_has_the_name_already(asked, order):
    model, file = three(), shuffled(three().state_dict(), order)
    report = tg.load(model, file, **asked)
    assert torch.equal(model["b"].weight, file["a.weight"])
    assert {u.spec.name: u.why.text for u in report.plan.unused} == dict.fromkeys(
        ("b.weight", "b.bias"), "another tensor fills the place of this name"
    )


@pytest.mark.parametrize("order", ["abc", "cba"])
@pytest.mark.parametrize(
    "asked",
    [
        {"rename": {"a": "c", "b": "c"}},
        {"fan_out": {"a": ["c"], "b": ["c"]}},
        {"fan_out": {"a": ["c"]}, "rename": {"b": "c"}},
        {"copies": {"a": "c", "b": "c"}},
        {"rename": {"{name}.": "c."}},
        {"rename": {"c": "c", "b": "c"}},
        {"fan_out": {"b": ["c"], "c": ["c"]}},
    ],
)
def test_rules_that_send_two_tensors_to_one_place_are_an_error(asked, order):
    model, file = three(), shuffled(three().state_dict(), order)
    before = model["c"].weight.tolist()
    with pytest.raises(
        tg.UsageError, match=r"let '\w\.\w+' and '\w\.\w+' both be 'c\.\w+': one place takes one tensor"
    ):
        tg.load(model, file, **asked)
    assert model["c"].weight.tolist() == before


def test_a_rule_with_a_number_that_leads_all_blocks_to_one_is_an_error():
    with pytest.raises(tg.UsageError, match=r"let 'layers.0.weight' and 'layers.1.weight' both be 'layers.0.weight'"):
        tg.load(net(), net().state_dict(), rename={"layers.{i}": "layers.0"})


def test_rules_may_send_several_tensors_out_of_the_model():
    model, file = three(), three().state_dict()
    plan = tg.plan(model, file, rename={"a": "nowhere", "b": "nowhere"}, fresh=["a", "b"])
    assert {u.spec.name[0] for u in plan.unused} == {"a", "b"}


def test_exchanged_names_are_exchanged():
    model, file = three(), three().state_dict()
    tg.load(model, file, rename={"a": "b", "b": "c", "c": "a"})
    assert all(torch.equal(model[to].weight, file[f"{of}.weight"]) for of, to in ("ab", "bc", "ca"))


@pytest.mark.parametrize("away", ["old", "old."])
def test_a_beginning_is_renamed_to_nothing_with_or_without_its_dot(away):
    file = {f"old.{name}": value for name, value in net().state_dict().items()}
    plan = tg.plan(net(), file | {"more.weight": torch.randn(4, 4)}, rename={away: ""})
    assert {name: step.feeds[0].key for name, step in plan.by_slot.items()} == {
        name.removeprefix("old."): name for name in file
    }


def test_names_that_begin_with_a_dot_are_matched():
    file = {f".{name.removeprefix('layers.')}": value for name, value in net().state_dict().items()}
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 3) for _ in range(3)]), "head": nn.Linear(3, 5)})
    assert tg.plan(model, file, on_doubt="take").by_slot["layers.0.weight"].feeds[0].key == ".0.weight"


@pytest.mark.parametrize("said", ["table", "out", "out.weight"])
def test_any_name_of_a_tied_tensor_keeps_it_fresh(said):
    model = nn.ModuleDict({"table": nn.Embedding(5, 3), "body": nn.Linear(3, 3), "out": nn.Linear(3, 5, bias=False)})
    model["out"].weight = model["table"].weight
    report = tg.load(model, {name: torch.randn_like(value) for name, value in model.state_dict().items()}, fresh=[said])
    assert [step.slot.name for step in report.plan.fresh] == ["table.weight"]
