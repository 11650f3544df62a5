"""Sound files that few programs write, or that a format allows and its usual writer doesn't make, are read exactly."""

import array
import enum
import io
import json
import re
import time
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Optional

import h5py
import numpy as np
import pytest
import torch

import torchgraft as tg

VALUES = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))


class Pipe:
    """Takes bytes, and can't go back."""

    def __init__(self):
        self.content = b""

    def write(self, data):
        self.content += bytes(data)
        return len(data)

    def flush(self):
        pass

    def read(self):
        raise OSError


def read(content, key="w"):
    with tg.open_checkpoint(io.BytesIO(content)) as source:
        return source.read(source.networks[0].path, key)


def test_npz_that_was_written_into_a_pipe():
    pipe = Pipe()
    np.savez(pipe, w=VALUES.numpy())
    assert torch.equal(read(pipe.content), VALUES)


def test_header_of_npy_in_other_quotation_marks():
    header = b'{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}'
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + VALUES.numpy().tobytes()
    assert torch.equal(read(content, "arr_0"), VALUES)


def test_objects_in_other_quotation_marks_are_seen():
    header = b'{"descr": [("a", "|O")], "fortran_order": False, "shape": (1,)}'
    with pytest.raises(tg.UnsafeCheckpointError, match="object"):
        read(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(8), "arr_0")


@pytest.mark.parametrize("block", [512, 1024, 8192])
def test_hdf5_behind_a_user_block(block):
    out = io.BytesIO()
    with h5py.File(out, "w", userblock_size=block) as file:
        file["w"] = VALUES.numpy()
    content = out.getvalue()
    assert torch.equal(read(content), VALUES)
    assert torch.equal(read(b"MATLAB 7.3 MAT-file" + content[19:]), VALUES)


def test_safetensors_whose_metadata_are_null():
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    for metadata in ({}, None):
        header = json.dumps({"__metadata__": metadata, "w": entry}).encode()
        assert torch.equal(read(len(header).to_bytes(8, "little") + header + VALUES.numpy().tobytes()), VALUES)


@pytest.mark.parametrize(
    "path", [PurePosixPath("/a/b"), PurePosixPath("a/b"), PurePosixPath("/"), PureWindowsPath("C:/a/b")]
)
def test_paths_beside_weights_are_facts_as_their_system_writes_them(tmp_path, path):
    torch.save({"state_dict": {"w": VALUES}, "path": path}, tmp_path / "m.pt")
    assert tg.inspect(tmp_path / "m.pt").metadata["path"] == str(path)


def test_values_of_python_and_numpy_beside_weights():
    beside = {
        "numbers": array.array("d", [1.0, 2.0]),
        "pattern": re.compile("a+", re.IGNORECASE),
        "generator": np.random.default_rng(3),
        "state": np.random.RandomState(3),
    }
    for protocol in (2, 3, 4, 5):
        out = io.BytesIO()
        torch.save({"w": VALUES, "beside": beside}, out, pickle_protocol=protocol)
        with tg.open_checkpoint(io.BytesIO(out.getvalue())) as source:
            network = next(n for n in source.networks if "w" in n.specs)
            assert torch.equal(source.read(network.path, "w"), VALUES)


class Outer:
    class Mode(enum.Enum):
        SLOW = 1

    def method(self):
        """Be referred to."""


class Choice(enum.Enum):
    LEFT = "left"


BESIDE = {
    "texts": np.array(["cat", "dog"]),
    "bytes": np.array([b"cat", b"dog"]),
    "objects": np.array(["cat", None, 3], dtype=object),
    "dates": np.array(["2024-01-01"], dtype="M8[D]"),
    "rows": np.zeros(3, dtype=[("a", "f4"), ("b", "i4")]),
    "state of an extension": io.BytesIO(b"state"),
    "member of a class in a class": [Outer.Mode, Outer.Mode.SLOW, Choice.LEFT],
    "method": [Outer().method],
    "types": [
        type(None),
        list[int],
        Optional[int],  # noqa: UP045  # pickled unlike the next
        int | None,
        dict[str, Any],
    ],
    "time": time.gmtime(0),
    "errors": [OSError(2, "gone"), AssertionError("x")],
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_values_that_are_no_tensors(beside, protocol, nested):
    out = io.BytesIO()
    weights = {"w": VALUES}
    torch.save(
        ({"state_dict": weights} if nested else weights) | {"beside": beside, "v": VALUES + 1},
        out,
        pickle_protocol=protocol,
    )
    with tg.open_checkpoint(io.BytesIO(out.getvalue())) as source:
        network = next(n for n in source.networks if "w" in n.specs)
        assert torch.equal(source.read(network.path, "w"), VALUES)
        assert [text for text in source.warnings if "left out" in text] or not isinstance(beside, np.ndarray)


UNREAD = {
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.empty(3, device="meta"),
    "bits": torch.zeros(3, dtype=torch.uint8).view(torch.bits8),
}


@pytest.mark.parametrize("unread", UNREAD.values(), ids=UNREAD)
def test_tensors_of_a_kind_that_is_not_read_are_left_out_beside_the_weights_only(tmp_path, unread):
    state = {"state": {0: {"moment": unread, "step": torch.tensor(1.0)}}, "param_groups": [{"params": [0]}]}
    torch.save({"model": {"w": VALUES}, "graph": unread, "optimizer": state}, tmp_path / "beside.pt")
    with tg.open_checkpoint(tmp_path / "beside.pt") as source:
        assert [n.path for n in source.networks] == ["model"]
        assert any(" beside the weights, as tensor " in text and " is " in text for text in source.warnings)
        assert torch.equal(source.read("model", "w"), VALUES)
    for name, among in {
        "flat": {"w": VALUES, "x": unread},
        "nested": {"ema": {"w": VALUES}, "model": {"x": unread}},
    }.items():
        torch.save(among, tmp_path / f"{name}.pt")
        with pytest.raises(tg.UnsupportedCheckpointError, match="tensor x is"):
            tg.open_checkpoint(tmp_path / f"{name}.pt")


def test_arrays_alone_that_are_no_tensors_are_told_as_before():
    out = io.BytesIO()
    torch.save({"names": BESIDE["texts"]}, out)
    with pytest.raises(tg.UnsupportedCheckpointError, match="array names has dtype 'U3'"):
        tg.open_checkpoint(io.BytesIO(out.getvalue()))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compressed_code_of_a_script_is_no_news(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "script.pt")
    assert tg.inspect(tmp_path / "script.pt").warnings == ()


def test_a_dataset_that_was_never_written_is_told(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["kept"] = [0.0, 0.0]
        file.create_dataset("left", (4,), dtype="f4", fillvalue=7.0)
        file.create_dataset("none", (0,), dtype="f4")
    assert list(tg.inspect(path).warnings) == ["dataset left was never written: its values are what fills gaps"]
