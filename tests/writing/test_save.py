"""What is written can be read by those who own the formats, and a failure leaves the old file and no litter."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

import torchgraft as tg
from torchgraft.core.errors import UsageError, WriteError
from torchgraft.saving import save_model
from torchgraft.writing import save

ENDINGS = (".safetensors", ".pt")


def tensors():
    return {
        "z.weight": torch.randn(3, 4),
        "a.bias": torch.randn(4).bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 2),
        "turned": torch.randn(4, 3).t(),
        "eight": torch.randn(5).to(torch.float8_e4m3fn),
        "part": torch.arange(100.0)[10:14],
        "complex": torch.randn(3, dtype=torch.complex64),
        "sixteen": torch.arange(5).to(torch.uint16),
        "eight two": torch.randn(5).to(torch.float8_e5m2fnuz),
    }


def load(path):
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def plain(tensor):
    return tensor if tensor.is_complex() else tensor.double()


def same(one, two):
    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype and one[k].shape == two[k].shape and torch.equal(plain(one[k]), plain(two[k]))
        for k in one
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_by_the_owners_of_the_format(tmp_path, ending):
    given_ = tensors()
    path = tmp_path / f"model{ending}"
    saved = save(path, given_)
    assert same(load(path), given_)
    assert saved.nbytes == path.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_parts_do_not_drag_their_whole_storage_along(tmp_path):
    path = tmp_path / "model.pt"
    save(path, {"part": torch.zeros(1 << 20)[:4]})
    assert path.stat().st_size < 10_000


def test_metadata_and_order(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, tensors(), {"epoch": "3"})
    with safe_open(path, "pt") as file:
        found = file.metadata()
        assert set(json.loads(found.pop("torchgraft.sha256"))) == set(tensors())
        assert found == {"format": "pt", "epoch": "3"}
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert [k for k in header if k != "__metadata__"] == list(tensors())
    assert all(v["data_offsets"][0] % 4 == 0 for v in header.values() if v.get("dtype") == "F32")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    given_ = tensors()
    save(tmp_path / "a.safetensors", given_)
    save(tmp_path / "b.safetensors", given_)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(500, 8)
        self.head = nn.Linear(8, 500, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("ending", ENDINGS)
def test_ties_are_stored_once_and_stated(tmp_path, ending):
    model, other = Tied(), Tied()
    path = tmp_path / f"model{ending}"
    saved = save_model(path, model)
    assert saved.shared == {"head.weight": "embed.weight"}
    assert path.stat().st_size < 2 * 500 * 8 * 4
    if ending == ".pt":
        other.load_state_dict(torch.load(path, weights_only=True))
    else:
        load_model(other, path)
        with safe_open(path, "pt") as file:
            assert file.metadata()["head.weight"] == "embed.weight"
    assert torch.equal(other.head.weight, model.embed.weight)


def test_state_dict_versions_survive_in_torch_files(tmp_path):
    path = tmp_path / "model.pt"
    save_model(path, nn.Sequential(nn.BatchNorm1d(3)))
    assert torch.load(path, weights_only=True)._metadata["0"]["version"] == 2


def test_extra_state_goes_into_torch_files_only(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"step": 3}

        def set_extra_state(self, state):
            self.step = state["step"]

    model, other = Extra(2, 2), Extra(2, 2)
    with pytest.raises(UsageError, match=r"_extra_state: extra state that is no tensor; save as \.pt"):
        save_model(tmp_path / "model.safetensors", model)
    save_model(tmp_path / "model.pt", model)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other.step == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("m.bin2", {}), "use one of the endings"),
        (("m.safetensors", {"w": torch.empty(2, device="meta")}), "w is on the meta device"),
        (("m.safetensors", {3: torch.ones(2)}), "tensor name 3"),
        (("m.safetensors", {"__metadata__": torch.ones(2)}), "can't be called __metadata__"),
        (("m.safetensors", {"w": torch.ones(2, dtype=torch.complex128)}), "w is torch.complex128"),
        (("m.safetensors", {"w\ud800": torch.ones(2)}), "not valid Unicode"),
        (("m.safetensors", {"w": torch.ones(2)}, {"epoch": 3}), "metadata 'epoch'"),
        (("m.safetensors", {"w": torch.ones(2)}, {"w": "x"}), "also the name of a tensor"),
    ],
)
def test_what_makes_no_sense_is_said_and_nothing_is_written(tmp_path, arguments, text):
    name, *rest = arguments
    with pytest.raises(UsageError, match=text):
        save(tmp_path / name, *rest)
    assert list(tmp_path.iterdir()) == []


def fail_fsync(monkeypatch, error):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(error))


def fail_replace(monkeypatch, error):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(error))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("fail", [fail_fsync, fail_replace])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_any_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, ending, fail, error):
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"old")
    fail(monkeypatch, error)
    expected = WriteError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save(path, tensors())
    if expected is WriteError:
        assert "the disk is full" in str(caught.value)
        assert "intact" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("other", [torch.conj, lambda value: torch.conj(value).imag])
def test_a_conjugate_is_written_beside_what_it_is_a_view_of(tmp_path, ending, other):
    """It shares memory, shape and strides, and holds other numbers."""
    whole = torch.randn(4, dtype=torch.complex64)
    view = other(whole)
    state = {"w": whole if view.is_complex() else whole.imag, "other": view}
    written = save(tmp_path / f"saved{ending}", state), tg.convert(state, tmp_path / f"converted{ending}")
    for saved in written:
        assert not saved.shared
        with tg.open_checkpoint(saved.path) as source:
            assert all(torch.equal(source.read("", name), value) for name, value in state.items())


@pytest.mark.parametrize("limit", [0, 100, 5_000, 300_000])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_the_system_cuts_off_is_refused(tmp_path, ending, limit):
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(WriteError, match="can't be written: the file system does not take files that large"):
            save(path, {"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_permissions_follow_the_umask_or_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    old = os.umask(0o027)
    try:
        save(path, {"w": torch.ones(1)})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        save(path, {"w": torch.ones(2)})
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(old)


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "real" / "model.safetensors")
    save(link, {"w": torch.ones(1)})
    assert link.is_symlink()
    assert load_file(tmp_path / "real" / "model.safetensors")["w"] == 1


def test_places_that_can_not_take_a_file(tmp_path):
    with pytest.raises(WriteError, match="the folder does not exist"):
        save(tmp_path / "none" / "m.pt", tensors())
    (tmp_path / "m.pt").mkdir()
    with pytest.raises(WriteError, match="it is a folder"):
        save(tmp_path / "m.pt", tensors())
    os.mkfifo(tmp_path / "f.pt")
    with pytest.raises(WriteError, match="not a regular file"):
        save(tmp_path / "f.pt", tensors())


def test_a_file_can_be_replaced_while_it_is_mapped(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(1000)}, path)
    mapped = torch.load(path, mmap=True, weights_only=True)
    save(path, {"w": mapped["w"]})
    assert torch.equal(load(path)["w"], torch.ones(1000))


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool]
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    drawn=st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
            lambda s: s not in ("__metadata__", "format")
        ),
        st.tuples(SHAPES, st.sampled_from(DTYPES)),
        max_size=6,
    )
)
def test_any_names_shapes_and_types_come_back(tmp_path_factory, drawn):
    given_ = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in drawn.items()}
    path = tmp_path_factory.mktemp("any") / "m.safetensors"
    save(path, given_)
    assert same(load(path), given_)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_was_written_is_said(tmp_path, ending):
    saved = tg.save_model(tmp_path / f"m{ending}", nn.Linear(2, 3))
    assert str(saved).startswith(f"wrote {tmp_path}/m{ending}: ")
    assert "2 tensors" in repr(saved)
    again = tg.save(tmp_path / f"n{ending}", nn.Linear(2, 3).state_dict())
    assert again.to_dict()["tensors"] == saved.tensors == 2


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "tensor",
    [torch.eye(3).to_sparse(), torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)],
    ids=["sparse", "nested"],
)
def test_tensors_that_are_not_dense_are_refused_before_anything_is_written(tmp_path, ending, tensor):
    path = tmp_path / f"m{ending}"
    with pytest.raises(tg.UsageError, match=r"a is (sparse_coo|nested), which is not written; make it dense"):
        tg.save(path, {"w": torch.ones(2), "a": tensor})
    assert not list(tmp_path.iterdir())
