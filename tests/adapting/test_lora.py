"""Adapters as PEFT saves them, merged as PEFT merges them: scale from the configuration, all kinds of layers."""

import json

import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import torchgraft as tg
from torchgraft.adapting.adapter_config import stated_scale
from torchgraft.core.errors import UsageError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.turned, self.square = Conv1D(8, 6), Conv1D(6, 6)
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.Linear(6, 6)


def merged_and_saved(folder, targets, **config):
    """Return the base model's tensors and those that PEFT's merge makes; the adapter lies in `folder`."""
    base = Net()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=5, target_modules=list(targets), **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return before, model.merge_and_unload().state_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["folder", "file"])
@pytest.mark.parametrize(
    ("targets", "config"),
    [
        (["up"], {}),
        (["turned", "square"], {"fan_in_fan_out": True}),
        (["embed", "conv"], {}),
        (["up", "turned", "embed"], {"use_rslora": True}),
        (["up", "square"], {"alpha_pattern": {"up": 9}, "rank_pattern": {"square": 4}}),
        (["up", "conv"], {"use_dora": True}),
        (["up"], {"alpha_pattern": {"^up": 9}}),
    ],
)
def test_agrees_with_peft(tmp_path, targets, config, place):
    torch.manual_seed(0)
    before, wanted = merged_and_saved(tmp_path, targets, **config)
    model = Net()
    model.load_state_dict(before)
    tg.load(model, tmp_path if place == "folder" else tmp_path / "adapter_model.safetensors", merge_lora=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, wanted[key], msg=key)
        assert torch.equal(value, before[key]) != any(key.startswith(t + ".w") for t in targets)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3, 3)], ids=["linear", "convolution"])
@pytest.mark.parametrize("on_output", [True, False])
def test_magnitudes_of_lycoris_go_by_their_shape(shape, on_output):
    """`dora_wd` keeps one for each input channel, with `wd_on_output` one for each output: a square weight has as many of both."""
    layer = nn.Linear(4, 4, bias=False) if len(shape) == 2 else nn.Conv2d(4, 4, 3, bias=False)
    model = nn.ModuleDict({"up": layer})
    before = layer.weight.detach().clone()
    ones = [1] * (len(shape) - 2)
    scale = torch.rand(4, 1, *ones) if on_output else torch.rand(1, 4, *ones)
    down, up = torch.randn(2, *shape[1:]), torch.randn(4, 2, *ones)
    adapter = {
        "up.lora_down.weight": down,
        "up.lora_up.weight": up,
        "up.alpha": torch.tensor(2.0),
        "up.dora_scale": scale,
    }
    tg.load(model, adapter, merge_lora=True)
    summed = before + (up.flatten(1) @ down.flatten(1)).reshape(shape)
    length = summed.square().sum([d for d in range(len(shape)) if d != (0 if on_output else 1)], keepdim=True).sqrt()
    torch.testing.assert_close(layer.weight.data, summed * scale / length)


def factors(stem="base_model.model.up"):
    return {f"{stem}.lora_A.weight": torch.randn(2, 6), f"{stem}.lora_B.weight": torch.randn(6, 2)}


@pytest.mark.parametrize(
    ("more", "asked", "said"),
    [
        ({}, True, "no adapter_config.json lies beside it"),
        ({"base_model.model.up.lora_B.bias": torch.zeros(6)}, 0.5, "1 tensors of adapters can't be merged"),
        ({"base_model.model.up.lokr_w1": torch.zeros(6, 2)}, 0.5, "merge this file with the library"),
        ({"base_model.model.gone.lora_A.weight": torch.zeros(2, 6)}, 0.5, "can't be merged, e.g. .*gone.lora_A"),
        (factors("base_model.model.gone"), 0.5, "1 adapted module is not in the model"),
        (
            {"base_model.model.up.scalar": torch.zeros(())},
            0.5,
            "up.scalar is beside the adapter of base_model.model.up",
        ),
        ({"base_model.model.up.linear.weight": torch.zeros(6, 6)}, 0.5, "linear.weight is beside the adapter"),
        (
            {"base_model.model.embed.token_adapter.trainable_tokens_delta": torch.zeros(2, 6)},
            0.5,
            "can't be merged, e.g. .*embed",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_and_nothing_changes(more, asked, said):
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UsageError, match=said):
        tg.load(model, factors() | more, merge_lora=asked)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_tied_weight_is_adapted_under_any_of_its_names_once_it_is_said_that_both_may_change():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 6), "head": nn.Linear(6, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    before = model["head"].weight.detach().clone()
    a, b = torch.randn(2, 6), torch.randn(7, 2)
    adapter = {"base_model.model.head.lora_A.weight": a, "base_model.model.head.lora_B.weight": b}
    with pytest.raises(tg.PlanRefusedError, match=r"trained for head.weight, and would change embed.weight as well"):
        tg.load(model, adapter, merge_lora=2.0)
    assert torch.equal(model["embed"].weight, before)
    assert tg.plan(model, adapter, merge_lora=2.0, on_doubt="skip").fresh
    tg.load(model, adapter, merge_lora=2.0, on_doubt="take")
    torch.testing.assert_close(model["embed"].weight.data, before + 2 * b @ a)


def test_a_module_under_two_names_is_adapted_as_one():
    model = nn.ModuleDict({"a": nn.Linear(6, 7, bias=False)})
    model["b"] = model["a"]
    before = model["a"].weight.detach().clone()
    tg.load(model, {"a.lora_A.weight": torch.ones(2, 6), "a.lora_B.weight": torch.ones(7, 2)}, merge_lora=1.0)
    torch.testing.assert_close(model["b"].weight.data, before + 2)


@pytest.mark.parametrize("base", [False, True])
def test_adapters_are_never_added_to_initial_values(base):
    factors = {"0.lora_A.weight": torch.ones(2, 6), "0.lora_B.weight": torch.ones(7, 2)}
    whole = {"0.weight": torch.randn(7, 6)} if base else {}

    def build():
        return nn.Sequential(nn.Linear(6, 7, bias=False))

    if not base:
        with pytest.raises(tg.UsageError, match=r"0.weight is on the meta device\): load the weights first"):
            tg.build(build, factors, merge_lora=1.0)
        return
    model, _ = tg.build(build, factors | whole, merge_lora=1.0)
    torch.testing.assert_close(model[0].weight.data, whole["0.weight"] + 2)


def test_branches_to_fuse_that_are_not_there_are_missed():
    with pytest.raises(tg.UsageError, match="fuse_branches was asked for, but the checkpoint has no parallel branches"):
        tg.plan(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3).state_dict(), fuse_branches=True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "no number"),
        ({"lora_alpha": "8"}, "no number"),
        ({"lora_alpha": True}, "no number"),
        ({"lora_alpha": 8, "alpha_pattern": {"(a|b)+": 3}}, "no plain name"),
        (None, "no adapter_config.json"),
    ],
)
def test_a_configuration_that_does_not_say_the_scale(config, said):
    with pytest.raises(UsageError, match=said):
        stated_scale("model.up", 2, config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4': .* trained beside what was left"),
        ({"init_lora_weights": "OLORA"}, "trained beside what was left"),
        ({"peft_type": "LILY"}, "says peft_type 'LILY'"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "says layer_replication"),
        ({"alora_invocation_tokens": [5]}, "says alora_invocation_tokens"),
        ({"target_parameters": ["up.weight", "up.second"]}, "says target_parameters 'up.second'"),
    ],
)
@pytest.mark.parametrize("asked", [True, 2.0])
def test_adapters_that_belong_to_other_weights_or_do_more_are_refused(tmp_path, config, said, asked):
    tg.save(tmp_path / "adapter_model.safetensors", factors())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4, "r": 2} | config))
    with pytest.raises(UsageError, match=said):
        tg.load(Net(), tmp_path, merge_lora=asked)


def test_a_scale_that_the_file_says_of_every_adapter_is_none_to_be_given():
    file = factors() | {"base_model.model.up.alpha": torch.tensor(1.0)}
    with pytest.raises(UsageError, match=r"merge_lora=0.7 says a scale, and the file says that of each adapter"):
        tg.load(Net(), file, merge_lora=0.7)
    model, before = Net(), Net().up.weight
    tg.load(model, file | factors("base_model.model.square"), merge_lora=0.7)
    assert not torch.equal(model.up.weight, before)


def test_patterns_name_ends_of_modules():
    config = {"lora_alpha": 8, "alpha_pattern": {"layers.0.up": 3, "^net.down": 5}}
    modules = ("a.layers.0.up", "players.0.up", "net.down", "base_model.model.net.down", "tower.net.down", "up")
    assert [stated_scale(module, 2, config) for module in modules] == [1.5, 4, 2.5, 2.5, 4, 4]


def test_the_scale_of_loha_has_another_name():
    assert stated_scale("up", 2, {"peft_type": "LOHA", "alpha": 5, "lora_alpha": 7}) == 2.5


def test_a_broken_configuration_is_said(tmp_path):
    tg.save(tmp_path / "adapter_model.safetensors", factors())
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UsageError, match="no adapter_config"):
        tg.load(Net(), tmp_path, merge_lora=True)
    assert any("adapter_config.json was left out" in w for w in tg.inspect(tmp_path).warnings)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4}))
    assert "scale 2" in str(tg.load(Net(), tmp_path, merge_lora=True))


@pytest.mark.parametrize("base", ["base_layer.", ""])
def test_a_weight_in_the_file_is_what_its_adapter_is_added_to(base):
    model, weight = Net(), torch.randn(6, 6)
    file = factors() | {f"base_model.model.up.{base}weight": weight}
    tg.load(model, file, merge_lora=0.5)
    b, a = file["base_model.model.up.lora_B.weight"], file["base_model.model.up.lora_A.weight"]
    torch.testing.assert_close(model.up.weight.data, weight + 0.5 * b @ a)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_trained_as_a_whole_takes_the_place_of_what_it_was(dtype):
    config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["up"], modules_to_save=["square", "conv"])
    model = peft.get_peft_model(Net(), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    file, net = model.state_dict(), Net().to(dtype)
    plan = tg.load(net, file, merge_lora=2.5).plan
    for name, value in model.merge_and_unload().state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value.to(dtype), msg=name)
    assert not plan.doubtful
    assert not plan.fresh
    assert all(".original_module." in one.spec.name for one in plan.unused)
    assert {one.why.text for one in plan.unused} == {"it was trained since, and what came of it is in its place"}
    twice = file | {
        key.replace("save.default", "save.other"): value + 1 for key, value in file.items() if "conv" in key
    }
    with pytest.raises(tg.PlanRefusedError, match=r"conv.{weight,bias} .* in doubt"):
        tg.load(Net(), twice, merge_lora=2.5)


def test_an_adapter_that_is_merged_a_second_time_is_said():
    model, one, other = Net(), factors(), factors()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    reports = [tg.load(model, file, merge_lora=0.5) for file in (one, other, one)]
    assert [[o.kind for o in report.plan.warnings] for report in reports] == [[], [], ["adapters"]]
    assert "up.weight: this adapter was merged into it before, and is now added once more" in str(reports[-1])
    tg.load(model, weights)
    assert not tg.load(model, one, merge_lora=0.5).plan.warnings
    before = model.up.weight.detach().clone()
    with pytest.raises(tg.PlanRefusedError, match="added once more"):
        tg.load(model, one, merge_lora=0.5, policy=tg.Policy(adapters=tg.Verdict.REFUSE))
    assert torch.equal(model.up.weight, before)


def test_adapters_that_are_not_merged_are_said():
    with pytest.raises(tg.PlanRefusedError, match="it holds low-rank adapters"):
        tg.load(Net(), factors())
    report = tg.load(Net(), factors() | Net().state_dict())
    assert [o.kind for o in report.plan.warnings] == ["adapters"]
    assert "are not merged" in str(report)


@pytest.mark.parametrize(
    ("ours", "others"),
    [("lora_unet_up", "lora_te1_text_model_layers_0_fc"), ("unet.up", "text_encoder.text_model.layers.0.fc")],
)
def test_adapters_of_networks_that_the_model_is_not_are_left_out_and_said(ours, others):
    model = Net()
    before = model.up.weight.detach().clone()
    file = {
        f"{stem}.lora_{part}.weight": torch.randn(shape)
        for stem in (ours, others)
        for part, shape in (("down", (2, before.shape[1])), ("up", (before.shape[0], 2)))
    }
    report = tg.load(model, file, merge_lora=0.5)
    added = 0.5 * file[f"{ours}.lora_up.weight"] @ file[f"{ours}.lora_down.weight"]
    torch.testing.assert_close(model.up.weight.data, before + added)
    assert [o.kind for o in report.plan.warnings] == ["adapters"]
    said = "text_encoder" if "." in ours else "lora_te1"
    assert f"are not merged: {said}; the model has nothing of the networks of these names" in str(report)
    misspelled = {key.replace(others, ours.replace("up", "gone")): value for key, value in file.items()}
    with pytest.raises(UsageError, match="1 adapted module is not in the model"):
        tg.load(model, misspelled, merge_lora=0.5)
    with pytest.raises(UsageError, match="not in the model"):
        tg.load(model, {key: value for key, value in file.items() if others in key}, merge_lora=0.5)


def test_factors_with_a_dot_in_their_names_are_merged_as_those_without():
    model = Net()
    before = model.up.weight.detach().clone()
    down, up = torch.randn(2, before.shape[1]), torch.randn(before.shape[0], 2)
    tg.load(model, {"unet.up.lora.down.weight": down, "unet.up.lora.up.weight": up}, merge_lora=0.5)
    torch.testing.assert_close(model.up.weight.data, before + 0.5 * up @ down)


def test_factors_in_the_processor_of_an_attention_are_merged_into_its_layers():
    attn = nn.ModuleDict({"to_q": nn.Linear(6, 5), "to_out": nn.ModuleList([nn.Linear(5, 6), nn.Dropout()])})
    model = nn.ModuleDict({"mid": nn.ModuleDict({"attn1": attn})})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    file = {}
    for part, (rows, columns) in {"to_q": (5, 6), "to_out": (6, 5)}.items():
        stem = f"unet.mid.attn1.processor.{part}_lora"
        file |= {f"{stem}.down.weight": torch.randn(2, columns), f"{stem}.up.weight": torch.randn(rows, 2)}
    with pytest.raises(tg.PlanRefusedError, match="low-rank adapters"):
        tg.load(model, file)
    tg.load(model, file, merge_lora=0.5)
    for part, layer in {"to_q": "to_q", "to_out": "to_out.0"}.items():
        up, down = (file[f"unet.mid.attn1.processor.{part}_lora.{end}.weight"] for end in ("up", "down"))
        name = f"mid.attn1.{layer}.weight"
        torch.testing.assert_close(model.state_dict()[name], before[name] + 0.5 * up @ down)


def test_an_adapter_for_a_small_part_of_the_model_is_no_sparse_load():
    model = nn.ModuleDict({"small": nn.Linear(4, 4), "large": nn.Linear(90, 90)})
    file = {f"{net}.small.lora_{end}.weight": torch.randn(4, 4) for net in ("unet", "te") for end in "AB"}
    file |= {f"te.more.{n}.lora_{end}.weight": torch.randn(4, 4) for n in range(5) for end in "AB"}
    del file["te.small.lora_A.weight"], file["te.small.lora_B.weight"]
    report = tg.load(model, file, merge_lora=1.0, min_coverage=0)
    assert [o.kind for o in report.plan.warnings] == ["adapters"]


def test_what_is_kept_fresh_gets_no_adapter():
    model = nn.ModuleDict({"q": nn.Linear(4, 4), "v": nn.Linear(4, 4)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    factors = {f"base_model.model.{part}.lora_{end}.weight": torch.randn(size)
               for part in ("q", "v") for end, size in (("A", (2, 4)), ("B", (4, 2)))}  # fmt: skip
    report = tg.load(model, factors, merge_lora=0.5, fresh=["v"])
    assert torch.equal(model["v"].weight, before["v.weight"])
    assert not torch.equal(model["q"].weight, before["q.weight"])
    assert {u.spec.name for u in report.plan.unused} == {name for name in factors if ".v." in name}
