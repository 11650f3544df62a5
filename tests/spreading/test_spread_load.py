"""A model that several processes hold together gets what a single process would get, bit for bit."""

import pytest
import torch
from spread_models import ASKED, WAYS, checkpoint, net, same, whole
from torch.distributed.tensor import DTensor

import torchgraft as tg

pytestmark = pytest.mark.xdist_group("processes")


def expected(file, **asked):
    model = net(seed=1)
    tg.load(model, file, **{**ASKED, **asked})
    return model.state_dict()


def load_spread(rank, way, size, file, asked):
    model = WAYS[way](net(seed=1), size)
    ids = {name: id(p) for name, p in model.named_parameters()}
    report = tg.load(model, file, **{**ASKED, **asked})
    assert ids == {name: id(p) for name, p in model.named_parameters()}
    assert report.checks[0].passed
    return {n: v.detach() for n, v in whole(model).items()}, report.cost.bytes_read, str(report.plan)


def test_each_reads_its_part_and_all_have_one_plan(file, two):
    results = two.run(load_spread, "fsdp", 2, file, {})
    assert results[0][2] == results[1][2]
    stored = tg.inspect(file).networks[0].nbytes
    assert all(0.3 * stored < read < 0.7 * stored for _, read, _ in results)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_spread_a_model(way, size, file, two, four):
    wanted = expected(file)
    for found, _, _ in {2: two, 4: four}[size].run(load_spread, way, size, file, {}):
        same(found, wanted)


def hard():
    """Return a checkpoint whose steps compute, fill some rows, add to what is there, or come from nothing; and what to ask."""
    state = checkpoint()
    state["embed.weight"] = state["embed.weight"][:9].clone()
    state["conv.weight"] = state["conv.weight"][:, :1].clone()
    for i in range(2):
        state[f"blocks.{i}.down.lora_A.weight"] = torch.ones(2, 10) * (i + 1)
        state[f"blocks.{i}.down.lora_B.weight"] = torch.arange(12.0).reshape(6, 2)
        del state[f"blocks.{i}.down.weight"]
    state["blocks.0.turned.weight"] = state["blocks.0.turned.weight"].t().contiguous().half()
    asked = {
        "grow_rows": ["embed.weight"], "in_channels": {"conv.weight": "repeat"}, "merge_lora": 0.5, "zero": ["extra.bias"],
        "fresh": ["extra.weight"], "permute": {"blocks.1.turned.weight": (1, 0)},
    }  # fmt: skip
    return state, asked


def load_hard(rank, way, size):
    model = WAYS[way](net(seed=1), size)
    state, asked = hard()
    assert tg.plan(model, state, **asked).memory.total > 0  # some tensors are made whole, by one for all
    report = tg.load(model, state, **asked)
    return (
        {n: v.detach() for n, v in whole(model).items()},
        [s.action.value for s in report.plan.steps],
        report.checks[0].text,
    )


@pytest.mark.parametrize(("way", "size"), [("fsdp", 2), ("tensor parallel", 2), ("last dimension", 4), ("both", 4)])
def test_steps_that_cannot_be_cut_give_the_same_too(way, size, two, four):
    model = net(seed=1)
    state, asked = hard()
    alone = tg.load(model, state, **asked)
    for found, actions, _ in {2: two, 4: four}[size].run(load_hard, way, size):
        same(found, model.state_dict())
        assert actions == [s.action.value for s in alone.plan.steps]


def load_onto_meta(rank, size):
    with torch.device("meta"):
        model = WAYS["fsdp"](net(), size)
    state = checkpoint() | {"extra.weight": torch.ones(3, 3), "extra.bias": torch.ones(3)}
    tg.load(model, state, permute=ASKED["permute"], on_doubt="take")
    return whole(model), all(isinstance(p, DTensor) and p.to_local().device.type == "cpu" for p in model.parameters())


def test_a_spread_model_on_meta_comes_out_whole(two):
    model = net()
    tg.load(
        model,
        checkpoint() | {"extra.weight": torch.ones(3, 3), "extra.bias": torch.ones(3)},
        permute=ASKED["permute"],
        on_doubt="take",
    )
    for found, real in two.run(load_onto_meta, 2):
        assert real
        same(found, model.state_dict())


def map_onto_meta(rank, size, path, way):
    with torch.device("meta"):
        model = WAYS[way](net(), size)
    report = tg.load(model, path, permute=ASKED["permute"], on_doubt="take", mmap=True, prefault=True)
    return whole(model), set(report.mapped.slots), report.cost.bytes_read + report.mapped.nbytes


@pytest.mark.parametrize("way", ["fsdp", "tensor parallel"])
def test_shards_of_rows_are_views_of_the_file(way, two, tmp_path):
    state = checkpoint() | {"extra.weight": torch.ones(3, 3), "extra.bias": torch.ones(3)}
    tg.save(tmp_path / "all.safetensors", state)
    model = net()
    tg.load(model, state, permute=ASKED["permute"], on_doubt="take")
    for found, views, _ in two.run(map_onto_meta, 2, tmp_path / "all.safetensors", way):
        same(found, model.state_dict())
        assert {"blocks.0.k.weight", "conv.bias", "extra.bias"} <= views
