"""Adapters for a model that isn't quite the one they were trained on: other names, fewer layers, another part of it."""

import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import torchgraft as tg


def block(names, size=6):
    attn, up, down, norm = names
    return nn.ModuleDict(
        {
            attn: nn.Linear(size, size),
            up: Conv1D(2 * size, size),
            down: nn.Linear(2 * size, size),
            norm: nn.LayerNorm(size),
        }
    )


OURS, OTHER = ("attn", "fc1", "fc2", "norm"), ("mix", "up", "down", "ln")


def net(count=4, names=OURS, stem="blocks"):
    blocks = nn.ModuleList(block(names) for _ in range(count))
    return nn.ModuleDict({"embed": nn.Embedding(7, 6), stem: blocks, "head": nn.Linear(6, 5)})


@pytest.fixture
def trained(tmp_path):
    """Return the base's weights, the adapted model's, those that PEFT's merge makes, and the folder of the adapter."""
    torch.manual_seed(0)
    base = net()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["fc1", "fc2"], fan_in_fan_out=False)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape))
    model.save_pretrained(tmp_path)
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    return before, whole, model.merge_and_unload().state_dict(), tmp_path


def expect(model, wanted, number=int, said=None):
    """Check each tensor of a model against the one of `wanted` that belongs there; `number` is the file's for a layer."""
    spelled = dict(zip((*OTHER, "layers"), (*OURS, "blocks"), strict=True))
    for name, value in model.state_dict().items():
        parts = [spelled.get(part, part) for part in name.split(".")]
        parts = [str(number(part)) if part.isdecimal() else part for part in parts]
        torch.testing.assert_close(value, wanted[".".join(parts)], msg=f"{name} {said}")


PICKED = {"blocks": [0, 2, 3]}


@pytest.mark.filterwarnings("ignore")
def test_adapters_alone_follow_the_layers_that_are_picked(trained):
    before, _, wanted, folder = trained
    model = net(3)
    tg.load(model, before, layers=PICKED)
    with pytest.raises(
        tg.UsageError, match=r"2 adapted modules are not in the model.*blocks.3.fc1.* with layers= which"
    ):
        tg.load(model, folder, merge_lora=True)
    report = tg.load(model, folder, merge_lora=True, layers=PICKED)
    expect(model, wanted, lambda at: PICKED["blocks"][int(at)], report)
    assert {one.why.text for one in report.plan.unused} == {"layers= passes over it"}
    assert not report.plan.warnings


@pytest.mark.filterwarnings("ignore")
def test_adapters_alone_follow_renames(trained):
    before, _, wanted, folder = trained
    model = net(names=OTHER, stem="layers")
    tg.load(model, before)
    names = {"base_model.model.blocks.{i}.fc1": "layers.{i}.up", "base_model.model.blocks.{i}.fc2": "layers.{i}.down"}
    with pytest.raises(tg.UsageError, match=r"8 adapted modules are not in the model.*say with rename="):
        tg.load(model, folder, merge_lora=True)
    del (some := dict(names))["base_model.model.blocks.{i}.fc2"]
    with pytest.raises(tg.UsageError, match=r"4 adapted modules are not in the model.*blocks.0.fc2:"):
        tg.load(model, folder, merge_lora=True, rename=some)
    tg.load(model, folder, merge_lora=True, rename=names)
    expect(model, wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "options", "number"),
    [
        (lambda: net(3), {}, int),
        (lambda: net(3), {"layers": PICKED}, lambda at: PICKED["blocks"][int(at)]),
        (lambda: net(names=OTHER, stem="layers"), {}, int),
    ],
    ids=["fewer", "picked", "renamed"],
)
def test_adapters_beside_their_weights_go_where_these_go(trained, model, options, number):
    _, whole, wanted, _ = trained
    made = model()
    report = tg.load(made, whole, merge_lora=2.5, **options)
    expect(made, wanted, number, report)
    assert not report.plan.fresh
    assert not [o for o in report.plan.objections if o.kind == "adapters"]


@pytest.mark.parametrize("ours", [Conv1D, lambda out, into: nn.Linear(into, out)], ids=["as stored", "other way round"])
def test_a_weight_of_the_file_that_is_stored_in_out_gets_its_adapter_in_that_layout(ours):
    up, down, base = torch.randn(8, 2), torch.randn(2, 6), torch.randn(6, 8)
    file = {"up.weight": base, "up.bias": torch.zeros(8), "up.lora_A.weight": down, "up.lora_B.weight": up}
    model = nn.ModuleDict({"up": ours(8, 6)})
    tg.load(model, file, merge_lora=0.5, on_doubt="take")
    weight = model["up"].weight.data
    torch.testing.assert_close(weight if isinstance(model["up"], Conv1D) else weight.T, base + 0.5 * (up @ down).T)


def test_an_adapter_of_a_part_that_the_model_keeps_joined_is_refused():
    file = {f"{part}.weight": torch.randn(6, 6) for part in ("q_proj", "k_proj", "v_proj")}
    file |= {"q_proj.lora_A.weight": torch.randn(2, 6), "q_proj.lora_B.weight": torch.randn(6, 2)}
    model = nn.ModuleDict({"qkv": nn.Linear(6, 18, bias=False)})
    before = model["qkv"].weight.detach().clone()
    with pytest.raises(tg.UsageError, match=r"one of 3 parts of qkv.weight.* give a model that has the parts apart"):
        tg.load(model, file, merge_lora=0.5)
    assert torch.equal(model["qkv"].weight, before)


@pytest.mark.parametrize("shared", [True, False])
def test_an_adapter_of_a_weight_that_is_tied_to_another_is_refused(shared):
    model = nn.ModuleDict({"embed": nn.Embedding(7, 6), "body": nn.Linear(6, 6), "head": nn.Linear(6, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    file = {name: torch.randn_like(value) for name, value in model.state_dict().items() if "head" not in name}
    weight = file["embed.weight"]
    file["head.base_layer.weight"] = weight if shared else weight.clone()
    file |= {"head.lora_A.default.weight": torch.randn(2, 6), "head.lora_B.default.weight": torch.randn(7, 2)}
    before = model["embed"].weight.detach().clone()
    with pytest.raises(
        tg.UsageError, match=r"head.base_layer.weight is one with embed.weight in the model.* untie them"
    ):
        tg.load(model, file, merge_lora=0.5)
    assert torch.equal(model["embed"].weight, before)


def test_an_adapter_of_another_part_of_the_network_is_not_taken_for_one_of_the_same_last_name():
    model = nn.ModuleDict({"proj": nn.Linear(6, 6), "out": nn.Linear(6, 6)})
    file = {}
    for stem in ("text.proj", "vision.out"):
        file |= {f"{stem}.lora_{end}.weight": torch.randn(2, 6) if end == "A" else torch.randn(6, 2) for end in "AB"}
    file = {f"base_model.model.{key}": value for key, value in file.items()}
    with pytest.raises(tg.UsageError, match="2 adapted modules are not in the model"):
        tg.load(model, file, merge_lora=0.5)
