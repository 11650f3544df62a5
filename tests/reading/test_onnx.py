"""ONNX models: every way to store a tensor, constants and subgraphs, and what is refused."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_files import ONNX_TYPES, as_raw, as_typed, constant, model, raw_bytes
from source_contract import SourceContract, distinct, same

from torchgraft.core.errors import (
    CorruptCheckpointError,
    LimitExceededError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
)
from torchgraft.reading import open_checkpoint


class TestOnnx(SourceContract):
    format = "ONNX"

    def make(self, tmp_path, state):
        (tmp_path / "m.onnx").write_bytes(model(as_raw(k, v) for k, v in state.items()).SerializeToString())
        return tmp_path / "m.onnx"


class TestOnnxTypedFields(SourceContract):
    format = "ONNX"

    def make(self, tmp_path, state):
        (tmp_path / "m.bin").write_bytes(model(as_typed(k, v) for k, v in state.items()).SerializeToString())
        return tmp_path / "m.bin"


class TestOnnxExternalData(SourceContract):
    format = "ONNX"

    def make(self, tmp_path, state):
        parts, data = [], b""
        for key, value in state.items():
            data += bytes(-len(data) % 64)
            parts.append(outside(key, value, offset=str(len(data)), length=str(len(raw_bytes(value)))))
            data += raw_bytes(value)
        (tmp_path / "weights.data").write_bytes(data)
        return write(tmp_path, model(parts))


def outside(name, value, **entries):
    """A TensorProto whose bytes lie in weights.data."""
    out = onnx.TensorProto(name=name, dims=list(value.shape), data_type=ONNX_TYPES[value.dtype], data_location=1)
    for key, text in ({"location": "weights.data"} | entries).items():
        out.external_data.add(key=key, value=text)
    return out


def write(tmp_path, proto):
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "m.onnx"


def test_constants_are_weights_where_they_are_float_arrays(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [constant("w", weight), constant("axes", [0, 1]), constant("eps", np.float32(1e-5))]
    with open_checkpoint(write(tmp_path, model([], nodes))) as source:
        assert {n.path: sorted(n.specs) for n in source.networks} == {"": ["w"], "constants": ["axes", "eps"]}
        assert torch.equal(source.read("", "w"), torch.from_numpy(weight))


def test_subgraphs_stand_below_their_node(tmp_path):
    branches = {
        f"{which}_branch": helper.make_graph([], which, [], [], initializer=[as_raw("w", distinct(2, 3, seed=seed))])
        for seed, which in enumerate(("then", "else"))
    }
    node = helper.make_node("If", ["c"], ["y"], name="choice", **branches)
    with open_checkpoint(write(tmp_path, model([as_raw("top", distinct(4))], [node]))) as source:
        assert set(source.networks[0].specs) == {"top", "choice.then_branch.w", "choice.else_branch.w"}
        assert same(source.read("", "choice.else_branch.w"), distinct(2, 3, seed=1))


def test_facts_of_the_model_are_kept(tmp_path):
    with open_checkpoint(write(tmp_path, model([as_raw("w", distinct(2))]))) as source:
        assert source.metadata["producer_name"] == "test"


def test_strings_are_left_out_with_a_word(tmp_path):
    text = helper.make_tensor("labels", onnx.TensorProto.STRING, [1], [b"cat"])
    with open_checkpoint(write(tmp_path, model([as_raw("w", distinct(2)), text]))) as source:
        assert "labels" in source.warnings[0]
        assert list(source.networks[0].specs) == ["w"]


def tensor(**facts):
    return onnx.TensorProto(**{"name": "w", "dims": [2], "data_type": 1, "raw_data": bytes(8)} | facts)


def sparse():
    proto = model([as_raw("v", distinct(2))])
    proto.graph.sparse_initializer.add(dims=[4]).values.name = "s"
    return proto


BAD = {
    "int4": (model([tensor(data_type=22, raw_data=b"\1")]), UnsupportedCheckpointError, r"w \(int4\).*float32"),
    "float4": (model([tensor(data_type=23, raw_data=b"\1")]), UnsupportedCheckpointError, "float4_e2m1"),
    "type 99": (model([tensor(data_type=99)]), UnsupportedCheckpointError, "99"),
    "no type": (model([tensor(data_type=0)]), CorruptCheckpointError, "no element type"),
    "sparse": (sparse(), UnsupportedCheckpointError, "sparse"),
    "segment": (model([tensor(segment=onnx.TensorProto.Segment(begin=0, end=2))]), UnsupportedCheckpointError, "segments"),
    "few bytes": (model([tensor(raw_data=bytes(7))]), CorruptCheckpointError, "w holds 7 bytes.*needs 8"),
    "many bytes": (model([tensor(raw_data=bytes(9))]), CorruptCheckpointError, "9 bytes"),
    "negative": (model([tensor(dims=[-2])]), CorruptCheckpointError, "shape"),
    "huge": (model([tensor(dims=[1 << 40, 1 << 40])]), CorruptCheckpointError, "needs"),
    "dims": (model([tensor(dims=[1] * 65)]), LimitExceededError, "65 dimensions"),
    "two fields": (model([tensor(float_data=[1.0, 2.0])]), CorruptCheckpointError, "field"),
    "other field": (model([tensor(raw_data=b"", int64_data=[1, 2])]), CorruptCheckpointError, "field"),
    "duplicate": (model([tensor(), tensor()]), CorruptCheckpointError, "duplicate.*w"),
    "nameless": (model([tensor(name="")]), CorruptCheckpointError, "no name"),
    "no tensors": (model([]), UnsupportedCheckpointError, "no tensors"),
    "dotdot": (model([outside("w", distinct(2), location="../x")]), UnsafeCheckpointError, r"\.\."),
    "absolute": (model([outside("w", distinct(2), location="/etc/hostname")]), UnsafeCheckpointError, "absolute"),
    "drive": (model([outside("w", distinct(2), location="C:/x")]), UnsafeCheckpointError, "absolute"),
    "nowhere": (model([outside("w", distinct(2), location="")]), UnsafeCheckpointError, "file name"),
    "lost": (model([outside("w", distinct(2), location="lost.data")]), CorruptCheckpointError, "lost.data: no such file"),
    "offset": (model([outside("w", distinct(2), offset="-4")]), CorruptCheckpointError, "offset '-4'"),
    "length": (model([outside("w", distinct(2), length="7")]), CorruptCheckpointError, "7 bytes"),
    "past": (model([outside("w", distinct(2), offset="13")]), CorruptCheckpointError, "truncated.*byte 21"),
    "itself": (model([outside("w", distinct(2), location=".")]), UnsafeCheckpointError, "no portable file name"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path, case):
    proto, error, words = BAD[case]
    (tmp_path / "weights.data").write_bytes(bytes(16))
    with pytest.raises(error, match=words):
        open_checkpoint(write(tmp_path, proto))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    """CVE-2026-34447, CVE-2024-27318: onnx followed links, and names with dots, to any file."""
    (tmp_path / "secret").write_bytes(bytes(8))
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "weights.data").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeCheckpointError, match="leads outside"):
        open_checkpoint(write(inner, model([outside("w", distinct(2))])))


def test_a_cut_anywhere_is_refused_or_gives_no_wrong_value(tmp_path):
    values = {"first": distinct(3, 2), "second": distinct(4, seed=1)}
    whole = model(as_raw(k, v) for k, v in values.items()).SerializeToString()
    for size in range(9, len(whole)):
        (tmp_path / "cut.onnx").write_bytes(whole[:size])
        try:
            with open_checkpoint(tmp_path / "cut.onnx") as source:
                assert all(same(source.read("", k), values[k]) for k in source.networks[0].specs)
                assert len(source.networks[0].specs) == 2
        except (CorruptCheckpointError, UnsupportedCheckpointError):
            pass


def test_numbers_that_the_type_can_not_hold_are_refused(tmp_path):
    proto = onnx.TensorProto(name="w", dims=[2], data_type=3, int32_data=[1, 300])
    with (
        open_checkpoint(write(tmp_path, model([proto]))) as source,
        pytest.raises(CorruptCheckpointError, match="int8"),
    ):
        source.read("", "w")


def test_graphs_without_end_are_refused(tmp_path):
    graph = helper.make_graph([], "g", [], [], initializer=[as_raw("w", distinct(2))])
    for _ in range(30):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    proto = helper.make_model(graph)
    with pytest.raises(LimitExceededError, match="depth"):
        open_checkpoint(write(tmp_path, proto))


@pytest.mark.parametrize("name", ["m.onnx", "link.onnx"])
def test_a_tensor_that_lies_in_the_model_itself_is_refused(tmp_path, name):
    path = write(tmp_path, model([outside("w", torch.ones(2, 2), location=name)]))
    (tmp_path / "link.onnx").hardlink_to(path)
    with pytest.raises(CorruptCheckpointError, match="tensor w lies in the model itself"):
        open_checkpoint(path)


def test_texts_are_read_up_to_the_limit_that_the_error_names(tmp_path):
    proto = model([as_raw("w", distinct(2, 3))])
    proto.producer_name = "p" * (1 << 16)
    with open_checkpoint(write(tmp_path, proto)) as source:
        assert source.metadata["producer_name"] == proto.producer_name
    proto.producer_name += "p"
    with pytest.raises(LimitExceededError, match=r"65537 bytes at byte \d+, 65536 are read at most"):
        open_checkpoint(write(tmp_path, proto))


@pytest.mark.parametrize("block", [7, 11, 64, 1 << 20])
def test_numbers_are_the_same_wherever_the_blocks_end_in_which_they_are_read(tmp_path, monkeypatch, block):
    monkeypatch.setattr("torchgraft.reading.formats.onnx_tensors._BLOCK", block)
    values = [(1 << n % 63) * (-1) ** n for n in range(200)]
    proto = onnx.TensorProto(name="w", dims=[200], data_type=7, int64_data=values)
    with open_checkpoint(write(tmp_path, model([proto]))) as source:
        assert torch.equal(source.read("", "w"), torch.tensor(values))
        part = bytearray(37)
        source.read_into("", "w", memoryview(part), 805)
        assert part == raw_bytes(torch.tensor(values))[805 : 805 + 37]


@pytest.mark.parametrize("long", [b"\x80" * 10 + b"\1", b"\x80" * 30 + b"\1", b"\x80" * 3], ids=len)
@pytest.mark.parametrize("before", [0, 1, 5, 25])
def test_numbers_that_do_not_end_are_refused_wherever_the_blocks_end(tmp_path, monkeypatch, long, before):
    monkeypatch.setattr("torchgraft.reading.formats.onnx_tensors._BLOCK", 12)
    data = b"\1" * before + long
    tensor = b"\x08" + bytes([before + 1]) + b"\x10\7B\1w:" + bytes([len(data)]) + data
    graph = b"*" + bytes([len(tensor)]) + tensor
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08\x12\4test:" + bytes([len(graph)]) + graph)
    with pytest.raises(CorruptCheckpointError, match="don't end as they must"):
        open_checkpoint(tmp_path / "m.onnx")
