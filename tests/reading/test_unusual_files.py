"""Sound files that few programs write, or that a format allows and its usual writer doesn't make, are read exactly."""

import array
import io
import json
import re

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
