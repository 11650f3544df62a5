"""Flax's msgpack files: names, collections, chunks, and what is refused."""

import msgpack
import pytest
import torch
from onnx_files import flax_bytes, flax_extension, nested
from source_contract import SourceContract, distinct, same

from torchgraft.core.errors import CorruptCheckpointError, LimitExceededError, UnsupportedCheckpointError
from torchgraft.reading import open_checkpoint


class TestFlax(SourceContract):
    format = "Flax msgpack"

    def make(self, tmp_path, state):
        (tmp_path / "flax_model.msgpack").write_bytes(flax_bytes(nested(state)))
        return tmp_path


def opened(tmp_path, content):
    (tmp_path / "m.msgpack").write_bytes(content)
    return open_checkpoint(tmp_path / "m.msgpack")


def test_statistics_join_the_parameters(tmp_path):
    tree = {"params": {"bn": {"scale": distinct(3)}}, "batch_stats": {"bn": {"mean": distinct(3, seed=1)}}}
    with opened(tmp_path, flax_bytes(tree)) as source:
        assert [(n.path, list(n.specs)) for n in source.networks] == [("", ["bn.scale", "bn.mean"])]


def test_a_training_state_has_its_optimizer_apart(tmp_path):
    state = {
        "params": {"a": {"kernel": distinct(2, 3)}},
        "opt_state": {"0": {"mu": {"a": distinct(2, 3, seed=1)}}},
        "step": 7,
    }
    with opened(tmp_path, flax_bytes(state)) as source:
        assert {n.path: (n.role, list(n.specs)) for n in source.networks} == {
            "params": ("model", ["a.kernel"]),
            "opt_state": ("optimizer", ["0.mu.a"]),
        }
        assert source.metadata["step"] == 7


@pytest.mark.parametrize("count", [1, 2, 5])
def test_chunks_are_put_together(tmp_path, count):
    value = distinct(5, 4)
    parts = {str(i): part.contiguous() for i, part in enumerate(value.flatten().chunk(count))}
    node = {"__msgpack_chunked_array__": True, "shape": {"0": 5, "1": 4}, "chunks": parts}
    with opened(tmp_path, flax_bytes({"a": {"w": node}})) as source:
        assert same(source.read("", "a.w"), value)
        middle = bytearray(11)
        source.read_into("", "a.w", memoryview(middle), 13)
        assert bytes(middle) == value.numpy().tobytes()[13:24]


def test_scalars_and_complex_numbers_are_no_obstacle(tmp_path):
    scalar = msgpack.ExtType(3, flax_extension(torch.tensor(2.5)).data)
    pair = msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))
    with opened(tmp_path, msgpack.packb({"a": {"s": scalar, "c": pair}})) as source:
        assert source.read("", "a.s") == 2.5


def test_a_list_of_numbers_is_a_fact_beside_the_weights(tmp_path):
    with opened(tmp_path, flax_bytes({"w": distinct(2), "sizes": [1, 2, 3]})) as source:
        assert list(source.networks[0].specs) == ["w"]
        assert source.metadata["sizes"] == [1, 2, 3]


def array(shape=(2,), name="float32", data=bytes(8)):
    return msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb((list(shape), name, data), use_bin_type=True))})


def chunked(**facts):
    node = {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": distinct(2)}}
    return flax_bytes({"w": node | facts})


def deep(levels):
    return b"\x81\xa1w" * levels + b"\x01"


BAD = {
    "size": (array(data=bytes(7)), CorruptCheckpointError, "has 7 bytes.*needs 8"),
    "huge": (array(shape=[1 << 40]), CorruptCheckpointError, "needs"),
    "negative": (array(shape=[-2]), CorruptCheckpointError, "shape"),
    "dims": (array(shape=[1] * 65), LimitExceededError, "65 dimensions"),
    "int4": (array(name="int4"), UnsupportedCheckpointError, "int4"),
    "object": (array(name="object"), UnsupportedCheckpointError, "object"),
    "extension 9": (msgpack.packb({"w": msgpack.ExtType(9, b"ab")}), UnsupportedCheckpointError, "type 9"),
    "no triple": (msgpack.packb({"w": msgpack.ExtType(1, b"\x90")}), CorruptCheckpointError, "not packed"),
    "inner extension": (
        msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb(msgpack.ExtType(1, b"ab")))}), CorruptCheckpointError, "none belongs"),
    "trailing": (array() + b"\0\0\0", CorruptCheckpointError, "3 bytes come after"),
    "cut": (array()[:-3], CorruptCheckpointError, "truncated"),
    "duplicate": (b"\x82\xa1w\x01\xa1w\x02" + bytes(4), CorruptCheckpointError, "duplicate.*w"),
    "key": (b"\x82\xa1w\x01\xc0\x02" + bytes(4), CorruptCheckpointError, "key of type NoneType"),
    "not UTF-8": (b"\x81\xa4\xff\xff\xff\xff\x01" + bytes(4), CorruptCheckpointError, "not UTF-8"),
    "no value": (b"\x81\xa1w\xc1" + bytes(5), CorruptCheckpointError, "0xc1"),
    "deep": (deep(70), LimitExceededError, "depth"),
    "deeper": (deep(500_000), LimitExceededError, "depth"),
    "many": (b"\xdf\xff\xff\xff\xff\xa1w\x01" + bytes(3), CorruptCheckpointError, "truncated"),
    "long list": (b"\x81\xa1w\xdd\xff\xff\xff\xff" + bytes(3), CorruptCheckpointError, "truncated"),
    "no tensors": (flax_bytes({"step": 3, "epoch": 4}), UnsupportedCheckpointError, "no tensors"),
    "collision": (flax_bytes({"a.b": distinct(2), "a": {"b": distinct(2)}}), CorruptCheckpointError, "a.b"),
    "chunk gap": (chunked(chunks={"1": distinct(2)}), CorruptCheckpointError, "chunks"),
    "chunk size": (chunked(shape={"0": 3}), CorruptCheckpointError, "needs 12"),
    "chunk types": (chunked(chunks={"0": distinct(1), "1": distinct(1).int()}), CorruptCheckpointError, "chunks"),
    "chunk shape": (chunked(shape=[2]), CorruptCheckpointError, "shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path, case):
    content, error, words = BAD[case]
    with pytest.raises(error, match=words):
        opened(tmp_path, content)
