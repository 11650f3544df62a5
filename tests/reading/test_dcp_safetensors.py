"""Boxes of tensors in safetensors files, one file for each process, are one checkpoint."""

import json

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

import torchgraft as tg


def write(folder, process, boxes):
    """Write a file of boxes as a process does: name -> (value, where it begins)."""
    folder.mkdir(exist_ok=True)
    offsets = json.dumps({name: {"saved_offsets": at} for name, (_, at) in boxes.items()})
    path = folder / f"shard-{process:05d}-model-00001-of-00001.safetensors"
    save_file({n: v.contiguous() for n, (v, _) in boxes.items()}, path, {"format": "pt", "DCP_SHARDING_INFO": offsets})
    return path


def values(folder):
    with tg.open_checkpoint(folder) as source:
        return {name: source.read("", name) for name in source.networks[0].specs}


def test_boxes_of_all_processes_are_put_together(tmp_path):
    w, b, c = torch.randn(5, 6), torch.randn(5).bfloat16(), torch.tensor(3)
    write(tmp_path, 1, {"w": (w[:3, :4], [0, 0]), "b": (b[:2], [0])})
    write(tmp_path, 2, {"w": (w[3:], [3, 0]), "b": (b[2:], [2]), "c": (c, [])})
    write(tmp_path, 3, {"w": (w[:3, 4:], [0, 4])})
    found = values(tmp_path)
    assert set(found) == {"w", "b", "c"}
    assert all(torch.equal(found[name], value) for name, value in {"w": w, "b": b, "c": c}.items())
    assert tg.inspect(tmp_path).format == "DCP in safetensors"


def test_what_torch_writes_is_read(tmp_path):
    storage = pytest.importorskip("torch.distributed.checkpoint.hf_storage", reason="older versions of torch have none")
    state = {"w": torch.randn(4, 3), "b": torch.randn(4)}
    dcp.save(state, storage_writer=storage.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True))
    found = values(tmp_path)
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ((torch.ones(2, 3), [3, 0]), "its 2 chunks don't cover it exactly"),
        ((torch.ones(4, 3), [0, 0]), "its 2 chunks don't cover it exactly"),
        ((torch.ones(2, 3).half(), [2, 0]), "the parts of tensor w differ in dtype or dimensions"),
        ((torch.ones(2, 3), [2]), r"tensor w \[2, 3\] is said to begin at \[2\]"),
        ((torch.ones(2, 3), [-2, 0]), "expected whole numbers from 0 on"),
        ((torch.ones(2, 3), "2"), "expected whole numbers from 0 on"),
    ],
)
def test_boxes_that_make_up_no_tensor_are_refused(tmp_path, other, text):
    write(tmp_path, 1, {"w": (torch.ones(2, 3), [0, 0])})
    write(tmp_path, 2, {"w": other})
    with pytest.raises(tg.CorruptCheckpointError, match=text):
        values(tmp_path)


def test_a_file_by_itself_and_a_gap_between_files_are_refused(tmp_path):
    first = write(tmp_path, 1, {"w": (torch.ones(2, 3), [0, 0])})
    last = write(tmp_path, 3, {"w": (torch.ones(2, 3), [2, 0])})
    with pytest.raises(tg.CorruptCheckpointError, match=r"process 2 \(shard-00002-\) are missing"):
        values(tmp_path)
    with pytest.raises(
        tg.UnsupportedCheckpointError, match=r"parts of tensors .* w from index \[2, 0\] on: give the folder"
    ):
        values(last)
    with tg.open_checkpoint(first) as source:
        assert "these are parts, and the folder holds all" in source.warnings[0]


def test_shards_of_other_names_are_told(tmp_path):
    for stem in ("a", "b"):
        save_file({f"{stem}.w": torch.ones(2)}, tmp_path / f"{stem}-00001-of-00001.safetensors")
    with tg.open_checkpoint(tmp_path) as source:
        assert source.warnings == (
            "the folder holds shards of other names, which are not read, as b-00001-of-00001.safetensors",
        )
