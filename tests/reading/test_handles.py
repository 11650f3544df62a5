"""A file object is read as the file is: by its bytes, on request, by several threads, and it stays the caller's."""

import bz2
import gzip
import io
import json
import lzma
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import torchgraft as tg

FORMATS = ("zip", "old", "safetensors")


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))


@pytest.fixture(scope="module")
def content(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("handles")
    torch.save(source.state_dict(), folder / "zip")
    torch.save(source.state_dict(), folder / "old", _use_new_zipfile_serialization=False)
    tg.save(folder / "a.safetensors", source.state_dict())
    return {"zip": folder / "zip", "old": folder / "old", "safetensors": folder / "a.safetensors"}


class Slow(io.RawIOBase):
    """A file object that gives few bytes at once, and has no readinto of its own."""

    def __init__(self, data):
        self._inner = io.BytesIO(data)

    def seek(self, offset, whence=0):
        return self._inner.seek(offset, whence)

    def tell(self):
        return self._inner.tell()

    def read(self, size=-1):
        return self._inner.read(min(size, 1000) if size > 0 else size)

    readinto = property()  # type: ignore[assignment]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("wrap", [io.BytesIO, Slow])
@pytest.mark.parametrize("undo", ["check", "keep"])
def test_a_file_object_loads_as_its_file_does(source, content, kind, wrap, undo):
    handle = wrap(content[kind].read_bytes())
    handle.seek(3)
    model = nn.Sequential(nn.Linear(7, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))
    report = tg.load(model, handle, undo=undo)
    assert tg.diff(model, source, values=True).equal
    assert report.plan.format == tg.inspect(content[kind]).format
    assert (handle.tell(), handle.closed) == (3, False)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_download_that_was_not_wound_back_is_read_from_its_first_byte(source, content, kind):
    with tempfile.SpooledTemporaryFile() as handle:
        handle.write(content[kind].read_bytes())
        assert tg.diff(handle, source, values=True).equal


def test_other_calls_take_them_too(source, content, tmp_path):
    with content["zip"].open("rb") as handle:
        assert str(content["zip"]) in str(tg.inspect(handle))
        assert tg.diff(handle, handle, values=True).equal
        tg.convert(handle, tmp_path / "out.safetensors")
        assert tg.plan(source, handle).refusals == ()
        meta = torch.nn.utils.skip_init(nn.Linear, 7, 3)
        assert tg.load(meta, {"weight": torch.ones(3, 7), "bias": torch.ones(3)})
        with tg.open_checkpoint(handle) as opened:
            assert torch.equal(opened.read("", "2.weight"), source[2].weight)
    assert tg.diff(tmp_path / "out.safetensors", source, values=True).equal


def test_memory_of_their_own_where_a_file_would_be_mapped(source, content):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(7, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))
    tg.load(model, io.BytesIO(content["safetensors"].read_bytes()), mmap=True)
    assert tg.diff(model, source, values=True).equal


class Pipe(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("underlying stream is not seekable")


class Response:
    """What urlopen returns, in short."""

    def read(self, size=-1):
        return b""

    def readinto(self, buffer):
        return 0


def closed():
    handle = io.BytesIO(b"x")
    handle.close()
    return handle


@pytest.mark.parametrize(
    ("handle", "said"),
    [
        (closed, "closed"),
        (lambda: io.StringIO("x"), "mode 'rb'"),
        (Pipe, "read all of it into io.BytesIO first"),
        (Response, "read all of it into io.BytesIO first"),
        (lambda: b"PK", "wrap a file's content in io.BytesIO"),
    ],
)
def test_what_can_not_be_read_is_said(handle, said):
    with pytest.raises(tg.UsageError) as caught:
        tg.inspect(handle())
    assert said in str(caught.value)


def test_the_faults_of_files_are_those_of_file_objects(content):
    whole = content["zip"].read_bytes()
    for data, said in ((b"", "empty"), (whole[:-50], "zip"), (gzip.compress(whole), "compressed with gzip")):
        with pytest.raises(tg.CheckpointError, match=said):
            tg.inspect(io.BytesIO(data))
    index = json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode()
    with pytest.raises(tg.UnsupportedCheckpointError, match=r"model-1.safetensors.*give the path"):
        tg.inspect(io.BytesIO(index))


def test_one_that_shrinks_leaves_the_model_as_it_was(source, content):
    class Shrinking(io.BytesIO):
        def readinto(self, buffer):
            if len(buffer) > 4000 and self.tell() > 1000:
                self.truncate(1000)
            return super().readinto(buffer)

    model = nn.Sequential(nn.Linear(7, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(tg.CheckpointError, match="truncated"):
        tg.load(model, Shrinking(content["safetensors"].read_bytes()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_paths_stay_paths(content):
    assert tg.inspect(Path(content["zip"])).to_dict() == tg.inspect(str(content["zip"])).to_dict()


OPENERS = {"gzip": gzip, "bz2": bz2, "lzma": lzma}


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_broken_stream_under_a_file_object_is_a_broken_checkpoint(content, name, harm):
    opener = OPENERS[name]
    data = bytearray(opener.compress(content["zip"].read_bytes()))
    if harm == "cut":
        del data[-20:]
    else:
        data[len(data) // 2] ^= 255
    with pytest.raises(tg.CorruptCheckpointError, match=r"^<\w+>: can't be read to its end: \w+"):
        tg.inspect(opener.open(io.BytesIO(bytes(data))))


def test_a_broken_member_of_an_archive_is_a_broken_checkpoint(content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net.pt", content["zip"].read_bytes())
    data = bytearray(packed.getvalue())
    data[len(data) // 2] ^= 255
    with (
        zipfile.ZipFile(io.BytesIO(bytes(data))) as archive,
        archive.open("net.pt") as member,
        pytest.raises(tg.CorruptCheckpointError, match=r"net\.pt: can't be read to its end"),
    ):
        tg.inspect(member)


class Failing(io.BytesIO):
    """A file object of some client, whose `at`-th read (from 0) raises an error of the client's own."""

    def __init__(self, data, at, error):
        super().__init__(data)
        self.left, self.error = at, error

    def readinto(self, buffer):
        self.left -= 1
        if self.left == -1:
            raise self.error
        return super().readinto(buffer)


@pytest.mark.parametrize("error", [RuntimeError("lost"), EOFError(), KeyError("lost"), TimeoutError("lost")], ids=repr)
@pytest.mark.parametrize("at", [0, 3, 7])
def test_whatever_a_file_object_raises_is_an_error_of_the_checkpoint(source, content, error, at):
    model = nn.Sequential(nn.Linear(7, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.CheckpointError, match=f"can't be read any more: {type(error).__name__}"):
        tg.load(model, Failing(content["zip"].read_bytes(), at, error))
    assert tg.diff(model, before, values=True).equal
    with pytest.raises(MemoryError):
        tg.inspect(Failing(content["zip"].read_bytes(), 0, MemoryError()))
