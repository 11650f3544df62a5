"""Several files with an index: other programs read them, and the index names whole shards of one run at any time."""

import errno
import json
import os
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import torchgraft as tg
from torchgraft.core.system import commit
from torchgraft.writing import size_of


def state(seed, count=6):
    torch.manual_seed(seed)
    return {f"layers.{n}.weight": torch.randn(10, 10) for n in range(count)}


def read(path):
    with tg.open_checkpoint(path) as source:
        network = source.networks[0]
        return {name: source.read(network.path, name) for name in network.specs}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(("ending", "load"), [(".safetensors", load_file), (".bin", torch.load)])
def test_layout_is_that_of_transformers(tmp_path, ending, load):
    saved = tg.save(tmp_path / f"model{ending}", state(0), {"epoch": "3"}, shard_size=900)
    shards = [f"model-0000{n}-of-00003{ending}" for n in (1, 2, 3)]
    assert names(tmp_path) == [*shards, f"model{ending}.index.json"]
    index = json.loads((tmp_path / f"model{ending}.index.json").read_text())
    assert index["metadata"]["total_size"] == 6 * 400
    assert list(index["weight_map"].items()) == [(f"layers.{n}.weight", shards[n // 2]) for n in range(6)]
    found = {k: v for shard in shards for k, v in load(tmp_path / shard).items()}
    assert equal(found, state(0))
    assert saved.path == str(tmp_path / f"model{ending}.index.json")
    assert equal(read(tmp_path), state(0))
    assert tg.inspect(tmp_path).metadata["epoch"] == "3"
    assert tg.inspect(tmp_path).warnings == ()


def test_transformers_reads_them(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=20, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    config.save_pretrained(tmp_path)
    tg.save_model(tmp_path / "model.safetensors", model, shard_size="2kB")
    again, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert equal(again.state_dict(), model.state_dict())


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(st.lists(st.integers(0, 5), max_size=2), min_size=1, max_size=12), most=st.integers(1, 300))
def test_no_shard_is_larger_than_asked_but_for_single_tensors(tmp_path_factory, shapes, most):
    folder = tmp_path_factory.mktemp("any")
    tensors = {f"t{n}": torch.randn(shape) for n, shape in enumerate(shapes)}
    saved = tg.save(folder / "m.safetensors", tensors, shard_size=most)
    assert equal(read(saved.path), tensors)
    held = [list(load_file(file).values()) for file in saved.files]
    assert all(len(s) == 1 or sum(4 * prod(t.shape) for t in s) <= most for s in held)
    sums = [sum(4 * prod(t.shape) for t in s) for s in held]
    assert all(a + 4 * prod(s[0].shape) > most for a, s in zip(sums, held[1:], strict=False))


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 << 19), ("7", 7), (9, 9), ("2kb", 2000)])
def test_sizes(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "0.2B", "1e9", True, "5 XB", "5I"])
def test_no_sizes(text):
    with pytest.raises(tg.UsageError, match="shard size"):
        size_of(text)


def test_old_shards_go_once_the_new_index_stands(tmp_path):
    path = tmp_path / "m.safetensors"
    tg.save(path, state(0), shard_size=900)
    tg.save(path, state(1, 8), shard_size=900)
    tg.save(path, state(2), shard_size=900)
    saved = tg.save(path, state(3), shard_size=900)
    assert len(names(tmp_path)) == 4
    assert equal(read(saved.path), state(3))
    assert not saved.notes


def test_shards_of_others_are_neither_written_over_nor_removed(tmp_path):
    from safetensors.torch import save_file

    theirs = tmp_path / "m-00001-of-00003.safetensors"
    save_file({"w": torch.ones(2)}, theirs)
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": theirs.name}}))
    saved = tg.save(tmp_path / "m.safetensors", state(1), shard_size=900)
    assert equal(load_file(theirs), {"w": torch.ones(2)})
    assert equal(read(saved.path), state(1))
    assert saved.notes == (f"shards of the index before stay: {theirs.name}",)
    other = tg.save(tmp_path / "m-2.safetensors", state(2), shard_size=900)
    saved = tg.save(tmp_path / "m.safetensors", state(3), shard_size=900)
    assert equal(read(other.path), state(2))
    assert equal(read(saved.path), state(3))


class Stop(BaseException):
    """A program that ends here."""


def stop_at(monkeypatch, step):
    """Let the process end at the `step`th call that changes a folder or makes it durable."""
    left = [step]

    def counted(call):
        def instead(*arguments, **more):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return call(*arguments, **more)

        return instead

    for name in ("replace", "fsync", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_shards_that_a_full_disk_leaves_are_told(tmp_path, monkeypatch):
    torch.save(state(0), tmp_path / "source.pt")
    left = [2]

    def flush(handle, real=os.fsync):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", flush)
    said = r"m-00002-of-00003.* the disk is full .*; 1 of 3 shards stays there, "
    with pytest.raises(tg.WriteError, match=f"{said}the same call goes on with the rest"):
        tg.convert(tmp_path / "source.pt", tmp_path / "m.safetensors", shard_size=900)
    left[0] = 2
    with pytest.raises(tg.WriteError, match=f"{said}the next call to this place writes over them"):
        tg.save(tmp_path / "m.safetensors", state(0), shard_size=900)


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_at_whatever_step_a_program_ends_the_index_gives_all_old_or_all_new(tmp_path, monkeypatch, ending):
    path = tmp_path / f"m{ending}"
    saved = tg.save(path, state(0), shard_size=900)
    seen = set()
    for step in range(60):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            try:
                tg.save(path, state(1), shard_size=900)
                finished = True
            except Stop:
                finished = False
        found = read(saved.path)
        seen.add(now := 1 if equal(found, state(1)) else 0)
        assert equal(found, state(now))
        if finished:
            break
    assert finished
    assert seen == {0, 1}
    assert len(names(tmp_path)) == 4


def test_a_source_that_was_written_over_with_its_time_set_back_is_another(tmp_path, monkeypatch):
    source, other, path = tmp_path / "source.safetensors", tmp_path / "other.safetensors", tmp_path / "m.safetensors"
    tg.save(source, state(0))
    tg.save(other, state(1))
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Stop):
            tg.convert(source, path, shard_size=500)
    before = source.stat()
    with source.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source.stat().st_size == before.st_size
    saved = tg.convert(source, path, shard_size=500)
    assert saved.notes == ()
    assert equal(read(saved.path), state(1))


def test_an_interrupted_conversion_goes_on_and_one_of_another_source_does_not(tmp_path, monkeypatch):
    source, path = tmp_path / "source.safetensors", tmp_path / "out" / "m.safetensors"
    path.parent.mkdir()
    tg.save(source, state(0))
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Stop):
            tg.convert(source, path, shard_size=500)
    stamp = (path.parent / "m-00001-of-00006.safetensors").stat()
    saved = tg.convert(source, path, shard_size=500)
    assert saved.notes == ("kept 2 shards that an earlier run of this conversion wrote",)
    assert (path.parent / "m-00001-of-00006.safetensors").stat().st_ino == stamp.st_ino
    assert equal(read(saved.path), state(0))
    tg.save(source, state(1))
    saved = tg.convert(source, path, shard_size=500)
    assert saved.notes == ()
    assert equal(read(saved.path), state(1))
    assert equal(read(tg.convert(source, path, shard_size=500, dtype="float64").path), {
        k: v.double() for k, v in state(1).items()
    })  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_an_interrupted_conversion_of_another_network_or_by_another_conversion_is_not_gone_on_with(
    tmp_path, monkeypatch, *, turned
):
    """Names, shapes and the file are the same: only what was asked for tells the shards of the one from those of the other."""
    source, path = tmp_path / "source.pt", tmp_path / "out" / "m.safetensors"
    path.parent.mkdir()
    torch.save({"model": state(0), "ema": state(1)}, source)
    turn = tg.learn(lambda given: {name: value.t() for name, value in given.items()}, state(0))
    asked = [{"prefer": "model"}, {"prefer": "model", "learned": turn} if turned else {"prefer": "ema"}]
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Stop):
            tg.convert(source, path, shard_size=500, **asked[0])
    saved = tg.convert(source, path, shard_size=500, **asked[1])
    assert not any("earlier run" in note for note in saved.notes)
    assert equal(read(saved.path), turn.convert(state(0)) if turned else state(1))


def test_shards_of_two_runs_are_not_read_as_one(tmp_path):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        tg.save(tmp_path / str(seed) / "m.safetensors", state(seed), shard_size=900)
    (tmp_path / "0" / "m-00002-of-00003.safetensors").replace(tmp_path / "1" / "m-00002-of-00003.safetensors")
    with pytest.raises(tg.CorruptCheckpointError, match=r"m-00002-of-00003.safetensors .* two different runs"):
        read(tmp_path / "1")


def test_a_second_writer_of_shards_is_told_to_wait(tmp_path):
    with (
        commit.only_writer(str(tmp_path), "other"),
        pytest.raises(tg.WriteError, match="another program writes shards into this folder"),
    ):
        tg.save(tmp_path / "m.safetensors", state(0), shard_size=900)
    tg.save(tmp_path / "m.safetensors", state(0), shard_size=900)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(tg.WriteError, match="the folder does not exist"):
        tg.save(tmp_path / "none" / "m.safetensors", state(0), shard_size=900)
