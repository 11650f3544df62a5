"""A module around all of a side says nothing of its parts: with it or without, they correspond alike."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import torchgraft as tg

WIDTH = 8


def block(names):
    sizes = (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)
    return nn.ModuleDict({name: nn.Linear(*size) for name, size in zip(names, sizes, strict=True)})


def nested(path, module):
    for part in reversed(path.split(".")):
        module = nn.ModuleDict({part: module})
    return module


class Timm(nn.Module):
    def __init__(self, side, channels):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, side * side + 1, WIDTH))
        self.patch_embed = nested("proj", nn.Conv2d(channels, WIDTH, 4))
        self.blocks = nn.ModuleList(block(("proj", "fc1", "fc2")) for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)


class Transformers(nn.Module):
    def __init__(self, side, channels):
        super().__init__()
        self.vit = nn.Module()
        self.vit.embeddings = nested("patch_embeddings.projection", nn.Conv2d(channels, WIDTH, 4))
        self.vit.embeddings.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.vit.embeddings.position_embeddings = nn.Parameter(torch.randn(1, side * side + 1, WIDTH))
        names = "attention", "intermediate", "output"
        self.vit.encoder = nested("layer", nn.ModuleList(block(names) for _ in range(3)))
        self.classifier = nn.Linear(WIDTH, 5)


@pytest.mark.parametrize("before", ["", "module.", "encoder.backbone."])
@pytest.mark.parametrize("around", ["", "model", "module.backbone"])
@pytest.mark.parametrize("ordered", [False, True])
def test_layers_of_other_names_and_sizes_are_found_whatever_they_lie_in(before, around, ordered):
    file, model = Transformers(4, 3), Timm(7, 1)
    state = {before + name: value for name, value in file.state_dict().items()}
    state["criterion.weight"] = torch.ones(3)  # not behind the prefix, as a loss or a queue isn't
    state = dict(sorted(state.items())) if ordered else state
    plan = tg.plan(nested(around, model) if around else model, state)
    inside = f"{around}." if around else ""
    fed = {step.slot.name.removeprefix(inside): [feed.key for feed in step.feeds] for step in plan.steps}
    assert fed["pos_embed"] == [f"{before}vit.embeddings.position_embeddings"]
    assert fed["patch_embed.proj.weight"] == [f"{before}vit.embeddings.patch_embeddings.projection.weight"]
    assert not plan.fresh


@pytest.mark.parametrize("path", ["blocks", "vit.encoder.layer", "model.blocks"])
def test_layers_of_a_list_that_the_file_calls_otherwise_are_picked_by_either_path(path):
    file, model = Transformers(4, 3), nested("model", Timm(4, 3))
    del model["model"].blocks[2]
    plan = tg.plan(model, file, layers={path: [0, 2]})
    fed = {step.slot.name: step.feeds[0].key.split(".")[3] for step in plan.steps if ".blocks." in step.slot.name}
    assert {(name.split(".")[2], number) for name, number in fed.items()} == {("0", "0"), ("1", "2")}
    file.decoder = nn.ModuleList(block(("a", "b", "c")) for _ in range(3))
    if path != "vit.encoder.layer":
        with pytest.raises(tg.UsageError, match="the file has no list of layers at"):
            tg.plan(model, file, layers={path: [0, 2]})


def test_where_it_is_unclear_which_layers_are_meant_the_remedy_says_it():
    def stack(depth, *names):
        return nn.ModuleList(nn.ModuleDict({name: nn.Linear(4, 4) for name in names}) for _ in range(depth))

    file, model = nested("net.layers", stack(4, "mix", "up")), nested("blocks", stack(3, "blend", "lift"))
    with pytest.raises(
        tg.PlanRefusedError, match=r"layers= says which 3 of the file's 4 in net\.layers are meant; or "
    ):
        tg.load(model, file)
    rules = {"net.layers.{i}.mix": "blocks.{i}.blend", "net.layers.{i}.up": "blocks.{i}.lift"}
    with pytest.raises(tg.PlanRefusedError) as refused:
        tg.load(nested("blocks", stack(4, "blend", "lift")), file)
    assert "layers= says" not in str(refused.value), "as many on both sides"
    plan = tg.load(model, file, rename=rules, layers={"blocks": [0, 1, 3]}).plan
    assert [step.feeds[0].key.split(".")[2] for step in plan.steps[::4]] == ["0", "1", "3"]


def test_two_lists_of_the_model_for_one_of_the_file_leave_none_out():
    def pair():
        return nn.ModuleDict({"mix": nn.Linear(4, 4), "up": nn.Linear(4, 4)})

    file = nested("layers", nn.ModuleList([pair() for _ in range(4)]))
    halves = nn.ModuleDict({name: nn.ModuleList([pair() for _ in range(2)]) for name in ("early", "late")})
    with pytest.raises(tg.PlanRefusedError) as refused:
        tg.load(halves, file)
    assert "layers= says" not in str(refused.value), "all of the file's four are used"


def stages(widths, block, after):
    """Return stages, each with a layer; between two of them lies what halves the image, at the end of one or the head of the next."""
    steps = [nn.ModuleDict({"proj": nn.Linear(a, b), "norm": nn.LayerNorm(b)}) for a, b in pairwise(widths)]
    made = nn.ModuleList()
    for number, width in enumerate(widths):
        parts = {"norm1": nn.LayerNorm(width), "mlp": nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})}  # fmt: skip
        stage = nn.ModuleDict({block: nn.ModuleList([nn.ModuleDict(parts)])})
        at = number if after else number - 1
        if 0 <= at < len(steps):
            stage["downsample"] = steps[at]
        made.append(stage)
    return made


def test_a_lone_norm_is_not_taken_for_a_deep_one_of_the_same_last_word():
    widths = (4, 6, 10)
    file = nn.ModuleDict({"layers": stages(widths, "blocks", after=False), "norm": nn.LayerNorm(10), "head": nn.Linear(10, 3)})  # fmt: skip
    model = nn.ModuleDict({"net": nn.ModuleDict({"encoder": nested("stages", stages(widths, "layers", after=True)), "layernorm": nn.LayerNorm(10)}), "classifier": nn.Linear(10, 3)})  # fmt: skip
    fed = {s.slot.name: [f.key for f in s.feeds] for s in tg.plan(model, file.state_dict()).steps}
    assert fed["net.layernorm.weight"] == ["norm.weight"]
    assert fed["net.encoder.stages.1.downsample.norm.weight"] == ["layers.2.downsample.norm.weight"]
    assert fed["net.encoder.stages.0.downsample.proj.weight"] == ["layers.1.downsample.proj.weight"]
