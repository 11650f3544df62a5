"""A model that several processes hold together is saved by all of them."""

import pytest
import torch
from spread_models import WAYS, net, same, whole

import torchgraft as tg

pytestmark = pytest.mark.xdist_group("processes")


def save_spread(rank, way, size, folder):
    model = WAYS[way](net(seed=3), size)
    saved = tg.save_model(folder / "out", model, {"note": "x"}, file_format="dcp")
    ends = []
    for path, how in ((folder / "out", "dcp"), (folder / "one.safetensors", None)):
        try:
            tg.save_model(path, model, file_format=how)
        except tg.UsageError as error:
            ends.append(str(error))
    again = WAYS[way](net(seed=4), size)
    tg.load(again, folder / "out")
    return saved.nbytes, ends, {n: v.detach() for n, v in whole(again).items()}


@pytest.mark.parametrize("way", ["fsdp", "tensor parallel"])
def test_a_spread_model_is_saved_by_all_and_loaded_by_one_and_by_all(way, two, tmp_path):
    wanted = net(seed=3).state_dict()
    beside = tmp_path / "out.spread.part"  # somebody else's: no name of ours
    beside.mkdir()
    (beside / "notes").write_text("kept")
    for nbytes, ends, again in two.run(save_spread, way, 2, tmp_path):
        assert nbytes > 0
        assert "exists; a distributed checkpoint is written to a new folder" in ends[0]
        assert "several processes hold it together" in ends[1]
        same(again, wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"out", beside.name}
    assert (beside / "notes").read_text() == "kept"
    model = net(seed=5)
    tg.load(model, tmp_path / "out")
    same(model.state_dict(), wanted)
    assert tg.inspect(tmp_path / "out").metadata["note"] == "x"


def save_from_some(rank, members, folder):
    """Save a model that only `members` hold: the others don't take part, and nobody waits for them."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh("cpu", torch.tensor(members))  # torch makes its groups in all processes
    if rank not in members:
        return None
    model = fully_shard(net(seed=3), mesh=mesh)
    ends = []
    for _ in range(2):
        try:
            tg.save_model(folder / "out", model, file_format="dcp")
        except tg.UsageError as error:
            ends.append(str(error))
    again = fully_shard(net(seed=4), mesh=mesh)
    tg.load(again, folder / "out")
    same(whole(again), net(seed=3).state_dict())
    return ends


@pytest.mark.parametrize("members", [[2, 3], [0, 2]])
def test_a_model_that_some_processes_hold_is_saved_by_those_alone(members, four, tmp_path):
    told = four.run(save_from_some, members, tmp_path)
    for rank, ends in enumerate(told):
        assert ends is None if rank not in members else "is written to a new folder" in ends[0]
    model = net(seed=5)
    tg.load(model, tmp_path / "out")
    same(model.state_dict(), net(seed=3).state_dict())
