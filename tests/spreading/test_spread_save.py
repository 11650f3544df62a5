"""A model that several processes hold together is saved by all of them."""

import pytest
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
    for nbytes, ends, again in two.run(save_spread, way, 2, tmp_path):
        assert nbytes > 0
        assert "exists; a distributed checkpoint is written to a new folder" in ends[0]
        assert "several processes hold it together" in ends[1]
        same(again, wanted)
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
    model = net(seed=5)
    tg.load(model, tmp_path / "out")
    same(model.state_dict(), wanted)
    assert tg.inspect(tmp_path / "out").metadata["note"] == "x"
