"""The format is told from the bytes, also where they look like another one at first."""

import json
import struct

import pytest
import torch

from torchgraft.reading import open_checkpoint


@pytest.mark.parametrize("low_byte", [0x80, 0x50, 0x1F, 0x93, 0x47, 0x7B, 0x5B, 0x08, 0x81, 0x28, 0x63, 0x3C])
@pytest.mark.parametrize("high_byte", [1, 2, 5])
def test_a_safetensors_header_of_any_length_is_a_safetensors_header(tmp_path, low_byte, high_byte):
    length = high_byte * 256 + low_byte
    value = torch.arange(6, dtype=torch.float32)
    head = json.dumps({"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + head + b" " * (length - len(head)) + value.numpy().tobytes())
    with open_checkpoint(path) as source:
        assert source.format == "safetensors"
        assert torch.equal(source.read("", "w"), value)
