"""Files around the checkpoint: links, devices, files that change or are swapped while they are read."""

import json
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from source_contract import distinct, same

import torchgraft as tg
from torchgraft.core.errors import CheckpointError, CorruptCheckpointError, UnsafeCheckpointError
from torchgraft.reading import open_checkpoint
from torchgraft.reading.disk import paths

A, B = distinct(2000, 500), distinct(2000, 500, seed=1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({"w": A}))
    return path


def test_a_file_that_shrinks_is_noticed(file):
    with open_checkpoint(file) as source:
        os.truncate(file, 4096)
        with pytest.raises(CorruptCheckpointError, match="changed while reading"):
            source.read("", "w")


def test_a_file_that_is_written_into_is_noticed(file):
    with open_checkpoint(file) as source:
        with file.open("r+b") as other:
            other.seek(3000)
            other.write(b"\xff" * 3000)
        os.utime(file, ns=(0, 12345))
        with pytest.raises(CorruptCheckpointError, match="changed while reading"):
            source.read("", "w")


def test_a_file_put_in_its_place_later_changes_nothing(file, tmp_path):
    with open_checkpoint(file) as source:
        (tmp_path / "other").write_bytes(save({"w": B}))
        (tmp_path / "other").replace(file)
        assert same(source.read("", "w"), A)


def sharded(folder, name="a.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    return folder


def test_a_link_put_there_after_the_check_is_not_followed(file, tmp_path, monkeypatch):
    """The folder on the way becomes a link between the check and the opening."""
    inner = sharded(tmp_path / "ckpt", "sub/a.safetensors")
    (inner / "sub").mkdir()
    (inner / "sub" / "a.safetensors").write_bytes(save({"w": A}))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.safetensors").write_bytes(save({"w": B}))
    walk = paths._walk

    def swapped(*args):
        if (inner / "sub").is_dir() and not (inner / "sub").is_symlink():
            (inner / "sub").rename(inner / "was")
            (inner / "sub").symlink_to(outside)
        return walk(*args)

    monkeypatch.setattr(paths, "_walk", swapped)
    with pytest.raises(CheckpointError):
        open_checkpoint(inner)


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    for name in ("pipe.pt", "zero.pt"):
        with pytest.raises(CorruptCheckpointError, match="not a regular file"):
            open_checkpoint(tmp_path / name)
    inner = sharded(tmp_path / "ckpt")
    os.mkfifo(inner / "a.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(inner)


def test_links_within_a_cache_are_followed_and_others_not(tmp_path):
    root = tmp_path / "models--org--name"
    snapshot = root / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "blobs" / "ff").write_bytes(save({"w": A}))
    sharded(snapshot)
    (snapshot / "a.safetensors").symlink_to("../../blobs/ff")
    with open_checkpoint(snapshot) as source:
        assert same(source.read("", "w"), A)
    (snapshot / "a.safetensors").unlink()
    (tmp_path / "secret").write_bytes(save({"w": B}))
    (snapshot / "a.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeCheckpointError, match="leads outside"):
        open_checkpoint(snapshot)


def descriptors(folder):
    """Return what is open below a folder: of all else, other objects of the process may open and close some meanwhile."""
    opened = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself is gone
            opened.append(link.readlink())
    return [path for path in opened if path.is_relative_to(folder)]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors where Linux lists them")
def test_no_descriptor_is_left_open(file, tmp_path):
    from onnx_files import model
    from test_onnx import outside

    (tmp_path / "weights.data").write_bytes(bytes(8))
    (tmp_path / "m.onnx").write_bytes(model([outside("w", torch.ones(2))]).SerializeToString())
    (tmp_path / "bad.onnx").write_bytes(
        model([outside("w", torch.ones(2)), outside("v", torch.ones(9))]).SerializeToString()
    )
    for path in (file, tmp_path / "m.onnx"):
        with open_checkpoint(path) as source:
            source.read("", "w")
            assert descriptors(tmp_path.resolve())
    with pytest.raises(CorruptCheckpointError):
        open_checkpoint(tmp_path / "bad.onnx")
    assert not descriptors(tmp_path.resolve())


def test_threads_that_read_while_the_file_is_replaced_see_one_of_the_two(file, tmp_path):
    seen, done = [], threading.Event()

    def replace():
        for i in range(30):
            (tmp_path / f"{i}").write_bytes(save({"w": (A, B)[i % 2]}))
            (tmp_path / f"{i}").replace(file)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        with open_checkpoint(file) as source:
            seen.append(source.read("", "w"))
    writer.join()
    assert all(same(value, A) or same(value, B) for value in seen)


def test_a_file_that_the_user_names_may_be_a_link_to_anywhere(file, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.safetensors").symlink_to(file)
    with open_checkpoint(elsewhere / "link.safetensors") as source:
        assert same(source.read("", "w"), A)
    (tmp_path / "folder").symlink_to(elsewhere)
    (elsewhere / "link.safetensors").unlink()
    (elsewhere / "own.safetensors").write_bytes(save({"w": B}))
    with open_checkpoint(tmp_path / "folder") as source:
        assert same(source.read("", "w"), B)


@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors", "model.safetensors.index.json"])
def test_a_file_that_is_found_in_a_folder_may_not_lead_out_of_it(name, file, tmp_path):
    folder = tmp_path / "ckpt"
    if name.endswith(".json"):
        sharded(tmp_path, "m.safetensors")
        file = tmp_path / "model.safetensors.index.json"
    folder.mkdir()
    (folder / name).symlink_to(file)
    with pytest.raises(UnsafeCheckpointError, match="leads outside its folder"):
        open_checkpoint(folder)
    (folder / name).unlink()
    (folder / "inner").mkdir()
    (folder / "inner" / "real").write_bytes(save({"w": A}))
    (folder / "model.safetensors").symlink_to("inner/real")
    with open_checkpoint(folder) as source:
        assert same(source.read("", "w"), A)


def test_a_configuration_that_leads_out_of_the_folder_is_left_out(file, tmp_path):
    folder = tmp_path / "ckpt"
    folder.mkdir()
    (tmp_path / "secret").write_text('{"password": 1}')
    (folder / "model.safetensors").write_bytes(save({"w": A}))
    (folder / "config.json").symlink_to(tmp_path / "secret")
    with open_checkpoint(folder) as source:
        assert "config" not in source.metadata
        assert any("leads outside" in text for text in source.warnings)


def test_a_link_to_itself_in_a_folder_is_said(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(CorruptCheckpointError, match="loop"):
        open_checkpoint(tmp_path)


def test_what_the_system_says_is_told_without_its_number(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"file/inner: Not a directory$"):
        open_checkpoint(tmp_path / "file" / "inner")


@pytest.fixture
def opening_at_most():
    """Limit how many files may be open beside those that are now."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(more):
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("more", range(4))
def test_too_many_open_files_are_no_broken_file(more, tmp_path, opening_at_most):
    tg.save(tmp_path / "m.safetensors", {f"l{n}": torch.zeros(8, 8) for n in range(9)}, shard_size=300)
    opening_at_most(more)
    with pytest.raises(CheckpointError, match="too many files are open") as caught:
        open_checkpoint(tmp_path)
    assert not isinstance(caught.value, CorruptCheckpointError)
