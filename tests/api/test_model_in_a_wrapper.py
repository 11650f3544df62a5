"""What a caller asks for holds as well where the model is a part of a larger module, which the file knows nothing of."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(6, 6, bias=False)
        self.conv_1 = nn.Conv2d(6, 5, 3, bias=False)


def tower(depth):
    return nn.ModuleDict({"embed": nn.Embedding(9, 6), "blocks": nn.ModuleList([Block() for _ in range(depth)])})


def wrapped(model, path):
    for name in reversed(path.split(".")) if path else ():
        model = nn.ModuleDict({name: model})
    return model


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


around = pytest.mark.parametrize("path", ["", "net", "backbone", "lit.model"])


@around
@pytest.mark.parametrize("prefix", ["", "bert.", "module."])
def test_layers_are_picked_from_a_list_that_the_file_has_elsewhere(path, prefix):
    file, model = tower(5).state_dict(), wrapped(tower(3), path)
    at = f"{path}." * bool(path)
    tg.load(model, under(prefix, file), layers={f"{at}blocks": [4, 0, 4]})
    for mine, theirs in enumerate([4, 0, 4]):
        assert torch.equal(model.state_dict()[f"{at}blocks.{mine}.attn.weight"], file[f"blocks.{theirs}.attn.weight"])


def test_a_list_that_the_file_has_twice_is_not_picked_from():
    file = under("query.", tower(3).state_dict()) | under("key.", tower(3).state_dict())
    with pytest.raises(
        tg.UsageError,
        match=r"layers: .* no list of layers at 'net\.blocks'; did you mean '(key|query)\.blocks' or '(key|query)\.blocks'",
    ):
        tg.plan(wrapped(tower(2), "net"), file, layers={"net.blocks": [0, 2]})


def adapter(state):
    """An adapter of rank 2 for each weight of a state dict, named as the kohya tools do."""
    out = {}
    for name, value in state.items():
        if name.startswith("blocks"):
            stem = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            out[f"{stem}.lora_down.weight"] = torch.randn(2, *value.shape[1:])
            out[f"{stem}.lora_up.weight"] = torch.randn(value.shape[0], 2, *[1] * (value.dim() - 2))
            out[f"{stem}.alpha"] = torch.tensor(3.0)
    return out


@around
def test_adapters_find_their_modules(path):
    state, model = tower(2).state_dict(), wrapped(tower(2), path)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    file = adapter(state)
    tg.load(model, file, merge_lora=True)
    for name in state:
        stem = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        added = torch.zeros(())
        if name.startswith("blocks"):
            up, down = file[f"{stem}.lora_up.weight"], file[f"{stem}.lora_down.weight"]
            added = 1.5 * (up.flatten(1) @ down.flatten(1)).reshape(state[name].shape)
        at = f"{path}." * bool(path) + name
        assert torch.allclose(model.state_dict()[at], before[at] + added, atol=1e-5)


def test_an_adapter_for_another_list_is_refused():
    file = {
        key.replace("unet_blocks", "unet_up_blocks"): value for key, value in adapter(tower(2).state_dict()).items()
    }
    model = nn.ModuleDict({"down_blocks": tower(2)["blocks"]})
    with pytest.raises(tg.UsageError, match="adapted modules are not in the model"):
        tg.plan(model, file, merge_lora=True)


@around
@pytest.mark.parametrize("joint", ["", "_"])
def test_averages_without_dots_find_their_names(path, joint):
    live, average, model = tower(3).state_dict(), tower(3).state_dict(), wrapped(tower(3), path)
    flat = {f"model_ema.diffusion_model{joint}{key.replace('.', joint)}": value for key, value in average.items()}
    tg.load(model, under("model.diffusion_model.", live) | flat, prefer="ema")
    for name, value in average.items():
        assert torch.equal(model.state_dict()[f"{path}." * bool(path) + name], value)


def branches(*, fused):
    if fused:
        return nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1)})
    parts = {"dense": nn.Conv2d(4, 4, 3, padding=1, bias=False), "point": nn.Conv2d(4, 4, 1, bias=False)}
    return nn.ModuleDict({
        name: nn.Sequential(part, nn.BatchNorm2d(4)) for name, part in parts.items()
    })  # fmt: skip


@around
@pytest.mark.parametrize("prefix", ["", "model.", "teacher.backbone."])
def test_branches_are_fused(path, prefix):
    def net(*, fused):
        stem = nn.Conv2d(3, 4, 3)
        return nn.ModuleDict({"stem": stem, "stage": nn.ModuleList([branches(fused=fused) for _ in range(2)])}).eval()

    source, model = net(fused=False), wrapped(net(fused=True), path).eval()
    tg.load(model, under(prefix, source.state_dict()), fuse_branches=True)
    x = torch.randn(2, 4, 5, 5)
    mine = model.get_submodule(f"{path}." * bool(path) + "stage.1.conv")
    theirs = source["stage"][1]
    assert torch.allclose(mine(x), theirs["dense"](x) + theirs["point"](x), atol=1e-5)
