"""`copies=`: modules that start as copies of others, called as the model calls them, wherever the file has the original."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def block(*, video=True):
    parts = {"norm": nn.LayerNorm(4), "attn": nn.ModuleDict({"qkv": nn.Linear(4, 12), "proj": nn.Linear(4, 4)})}
    if video:
        parts |= {
            "time_norm": nn.LayerNorm(4),
            "time_attn": nn.ModuleDict({"qkv": nn.Linear(4, 12), "proj": nn.Linear(4, 4)}),
        }
    return nn.ModuleDict(parts)


def net(**how):
    return nn.ModuleDict({"blocks": nn.ModuleList([block(**how), block(**how)]), "head": nn.Linear(4, 3)})


def name_in_image(name):
    return name.replace("time_", "")


@pytest.mark.parametrize(
    "copies",
    [
        {"attn": "time_attn", "norm": "time_norm"},
        {"blocks.{i}.attn": "blocks.{i}.time_attn", "blocks.{i}.norm": "blocks.{i}.time_norm"},
        {"blocks.*.attn": "blocks.*.time_attn", "norm.": "time_norm."},
        {f"blocks.{at}.{part}": f"blocks.{at}.time_{part}" for at in (0, 1) for part in ("attn", "norm")},
    ],
)
@pytest.mark.parametrize(
    "file_name",
    [lambda n: n, lambda n: f"module.{n}", lambda n: n.replace("blocks", "layers").replace("attn", "self_attention")],
)
def test_a_copy_starts_as_what_its_original_gets(copies, file_name):
    state, model = filled(net(video=False)).state_dict(), filled(net())
    report = tg.load(model, {file_name(name): value for name, value in state.items()}, copies=copies)
    assert all(torch.equal(value, state[name_in_image(name)]) for name, value in model.state_dict().items())
    assert "as you said" in str(report.plan.by_name["blocks.1.time_attn.qkv.weight"].why.text)
    assert not report.plan.fresh


def test_a_part_of_the_model_starts_as_a_copy_of_another_that_the_file_knows_under_no_such_name():
    """Momentum contrast: one backbone, the key encoder as a copy of the query encoder, each with a head of its own."""
    source = filled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    model = nn.ModuleDict(
        {name: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 6)) for name in ("query", "key")}
    )
    report = tg.load(filled(model), source.state_dict(), copies={"query": "key"})
    for name, value in source.state_dict().items():
        assert torch.equal(model["query"].state_dict()[name], value)
        assert torch.equal(model["key"].state_dict()[name], value)
    assert [step.slot.name for step in report.plan.fresh] == [
        f"{part}.2.{p}" for part in model for p in ("weight", "bias")
    ]


def test_a_copy_of_a_fused_layer_is_put_together_likewise():
    state, model = {}, filled(net())
    for at in (0, 1):
        for part in "qkv":
            for role, size in (("weight", (4, 4)), ("bias", (4,))):
                state[f"blocks.{at}.attn.{part}_proj.{role}"] = torch.randn(size)
    whole = filled(net(video=False)).state_dict()
    state |= {name: value for name, value in whole.items() if "qkv" not in name}
    tg.load(model, state, copies={"attn": "time_attn", "norm": "time_norm"}, on_doubt="take")
    for made in model["blocks"]:
        assert torch.equal(made["attn"]["qkv"].weight, made["time_attn"]["qkv"].weight)
    assert torch.equal(made["time_attn"]["qkv"].weight[4:8], state["blocks.1.attn.k_proj.weight"])


def test_a_copy_is_no_original():
    with pytest.raises(tg.UsageError, match=r"start as a copy of 'blocks\.0\.norm\.weight', which starts as one of"):
        tg.plan(net(), net(video=False).state_dict(), copies={"norm": "time_norm", "time_norm": "norm"})


def test_what_is_kept_fresh_is_no_copy():
    model = filled(net())
    before = model["blocks"][0]["time_attn"]["proj"].weight.clone()
    tg.load(
        model,
        filled(net(video=False)).state_dict(),
        copies={"attn": "time_attn"},
        fresh=["blocks.*.time_attn.proj", "*.time_norm"],
    )
    assert torch.equal(model["blocks"][0]["time_attn"]["proj"].weight, before)
    assert torch.equal(model["blocks"][0]["time_attn"]["qkv"].weight, model["blocks"][0]["attn"]["qkv"].weight)


def test_a_copy_and_its_original_in_the_wrong_order_are_told_so():
    with pytest.raises(tg.PlanRefusedError, match=r"the original comes first, as in copies=\{'attn': 'added_attn'\}"):
        tg.load(net(), net(video=False).state_dict(), copies={"time_attn": "attn"})
