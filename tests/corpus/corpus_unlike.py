"""Files that one reader takes so and another one otherwise, and small ones that ask for very much memory."""

from __future__ import annotations

import io
import struct
import tarfile
from typing import TYPE_CHECKING, Any

import torch
from corpus_others import dcp_edited
from corpus_tools import (
    SIX,
    C,
    Case,
    L,
    Record,
    archive,
    call,
    fact,
    gguf,
    name,
    npy,
    npy_header,
    one,
    safetensors,
    state,
    torch_zip,
)
from random_checkpoints import tar

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRAY = npy(npy_header())


def numpy_cases() -> Iterator[Case]:
    """Numpy looks for a member by its whole name first, and goes by what is in it."""
    other = npy(npy_header(), SIX[::-1])
    for label, names in {"bare": ("w", "w.npy"), "ending": ("w.npy", "w.npy.npy")}.items():
        members = [Record(name=label_, data=data) for label_, data in zip(names, (other, ARRAY), strict=True)]
        yield one(f"npz_one_name_{label}", archive(members), C, "have one name", suffix="npz")
    members = [Record(name="w", data=ARRAY), Record(name="v.npy", data=other)]
    yield one("npz_array_without_ending", archive(members), "", r"\A\Z", suffix="npz")


def gguf_cases() -> Iterator[Case]:
    long = b"".join(fact(f"a{n}", 9, struct.pack("<IQ", 0, 100) + bytes(100)) for n in range(2))
    bad = {
        "empty_between": (gguf([("a", (64,), 24, 0), ("z", (0,), 24, 32), ("b", (64,), 24, 32)], data=bytes(96)), C, "overlap"),
        "empty_inside": (gguf([("a", (64,), 24, 0), ("z", (0,), 24, 32)], data=bytes(64)), C, "overlap"),
        "empty_behind": (gguf([("a", (32,), 24, 0), ("z", (0,), 24, 32), ("b", (32,), 24, 32)], data=bytes(64)), "", ""),
        "long_arrays": (gguf([("w", (3, 2), 0, 0)], long, counts=(1, 2)), "", ""),
    }  # fmt: skip
    for label, (content, error, words) in bad.items():
        yield one(f"gguf_{label}", content, error, words, suffix="gguf")


def onnx_cases() -> Iterator[Case]:
    """Fields of another wire type than theirs are unknown to protocol buffers; of one given twice, the last counts."""
    from record_level import encode

    def model(*fields: list[Any], node: tuple[list[Any], ...] = ()) -> bytes:
        graph = [[5, 2, ["tensor", list(fields)]]] * bool(fields) + [[1, 2, ["node", list(node)]]] * bool(node)
        return encode([[1, 0, 8], [2, 2, b"test"], [7, 2, ["graph", graph]]])

    called, kind, six = [8, 2, b"w"], [2, 0, 1], [1, 0, 6]
    raw: list[Any] = [9, 2, SIX]
    attribute = [[1, 2, b"value"], *[[5, 2, ["tensor", [six, kind, raw]]]] * 2]
    bad = {
        "raw_twice": model(six, kind, called, [9, 2, SIX[:12]], [9, 2, SIX[12:]]),
        "raw_then_nothing": model(six, kind, called, raw, [9, 2, b""]),
        "floats_as_numbers": model([1, 0, 1], kind, called, [4, 0, 0x7FFFFFF]),
        "floats_of_eight_bytes": model([1, 0, 2], kind, called, [4, 1, SIX[:8]]),
        "raw_of_eight_bytes": model([1, 0, 2], kind, called, [9, 1, SIX[:8]]),
        "half_a_float": model(six, kind, called, [4, 2, SIX[:10]], [4, 2, SIX[10:]]),
        "numbers_of_four_bytes": model([1, 0, 4], [2, 0, 6], called, [5, 5, b"\1\2\3\4"]),
        "dimensions_of_eight_bytes": model([1, 1, b"\6" + b"\1" * 7], kind, called, raw),
        "type_as_bytes": model(six, [2, 2, b"\6"], called, raw),
        "two_values": model(node=([2, 2, b"k"], [4, 2, b"Constant"], [5, 2, ["attribute", attribute]])),
        "large_field": model(six, kind, called, [(1 << 29) + 9, 2, SIX]),
    }
    for label, content in bad.items():
        words = "none of its kind|has two values|field has the number 5368"
        yield one(f"onnx_{label}", content, C, words, suffix="onnx")
    yield one("onnx_plain", model(six, kind, called, raw), "", "", suffix="onnx")


def hdf5_cases() -> Iterator[Case]:
    import h5py
    import numpy as np

    def odd(root: Any) -> None:
        kind = h5py.h5t.STD_I32LE.copy()
        kind.set_precision(24)
        kind.set_size(3)
        h5py.h5d.create(root.id, b"odd", kind, h5py.h5s.create_simple((6,)))
        root["w"] = np.ones(3)

    def pieces(root: Any) -> None:
        root.create_dataset("w", (10,), "f4", maxshape=(None,), chunks=(1 << 25,), compression="gzip")

    cases = {"three_bytes": (odd, "", "dataset odd has dtype"), "large_pieces": (pieces, L, "in pieces of 134217728")}
    for label, (fill, error, words) in cases.items():
        out = io.BytesIO()
        with h5py.File(out, "w") as root:
            fill(root)
        yield one(f"hdf5_{label}", out.getvalue(), error, words, suffix="h5")


def dcp_cases() -> Iterator[Case]:
    """A chunk lies where its offsets are listed; an entry without offsets is no place for one of several."""

    def halves(meta: Any) -> Any:
        entry = meta.state_dict_metadata["w"]
        kind, size = type(entry.chunks[0]), type(entry.size)
        entry.chunks = [kind(size((at, 0)), size((1, 3))) for at in range(2)]
        for index in meta.storage_data:
            object.__setattr__(index, "offset", None)
        return meta

    def twice(meta: Any) -> Any:
        (index,) = [index for index in meta.storage_data if index.fqn == "w"]
        other = type(index)("w", (9, 9))
        meta.storage_data[other] = meta.storage_data[index]
        object.__setattr__(other, "offset", index.offset)  # only now, as equal keys would be one
        return meta

    for label, change, words in (("no_offsets", halves, "lies in no file"), ("two_places", twice, "two places")):
        yield Case(
            name=f"dcp_{label}", files=dcp_edited(change), error="CorruptCheckpointError", words=words, opens="ckpt"
        )


def tar_cases() -> Iterator[Case]:
    """Extended headers that other programs go by, and older ones pass over."""

    def packed(**facts: str) -> bytes:
        out = io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(tar({"w": torch.arange(6.0)}))) as given,
            tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as new,
        ):
            for member in given:
                if member.name == "tensors":
                    member.pax_headers = facts
                new.addfile(member, given.extractfile(member))
        return out.getvalue()

    yield one("tar_renamed", packed(path="other"), C, "another name or size", suffix="tar")
    yield one("tar_resized", packed(size="10"), C, "another name or size", suffix="tar")
    yield one("tar_with_times", packed(mtime="1.5"), "", "tar", suffix="tar")


def array_cases() -> Iterator[Case]:
    """Arrays of numpy in pickles: the order in memory, and the element type of the tensor that they stand for."""
    six = call(name("numpy", "dtype"), "f4", False, True)
    buffer = name("numpy._core.numeric", "_frombuffer")
    raw = b"C\x18" + SIX
    device = name("torch._utils", "_rebuild_device_tensor_from_numpy")
    array = call(buffer, raw, six, (6,), "C")
    bad = {
        "order_small": call(buffer, raw, six, (2, 3), "f"), "order_alone": call(buffer, raw, six, (2, 3), "K"), "axes_twice": call(buffer, raw, six, (2, 3), "K", (0, 0)),
        "axes_short": call(buffer, raw, six, (2, 3), "K", (0,)), "axes_true": call(buffer, raw, six, (2, 3), "K", (True, False)),
    }  # fmt: skip
    for label, content in bad.items():
        yield one(f"array_{label}", torch_zip(state(w=content)), C, "in the order")
    odd = {"int8": (array, "int8"), "bits": (call(buffer, b"C\4\1\0\0\x40", six, (1,), "C"), "bfloat16")}
    for label, (value, kind) in odd.items():
        made = call(device, value, name("torch", kind), "xla:0", False)
        yield one(f"array_of_device_{label}", torch_zip(state(w=made)), C, "whose values it can't have")


def bombs() -> Iterator[Case]:
    """Headers of next to nothing, which parsers make much of."""
    yield one(
        "safetensors_lists",
        safetensors(b'{"a":[' + b"[]," * 200_000 + b"[]]}"),
        L,
        "tables and lists",
        suffix="safetensors",
    )
    shape = b'{"w":{"dtype":"F32","shape":[' + b"1," * 300_000 + b'6],"data_offsets":[0,24]}}'
    yield one("safetensors_dimensions", safetensors(shape), L, "dimensions", suffix="safetensors")
    lists = b"\x81\xa1l\xdd" + struct.pack(">I", 300_000) + b"\x90" * 300_000
    yield one("flax_lists", lists, L, "more than 137501 values", suffix="msgpack")


ALL = [
    *numpy_cases(),
    *gguf_cases(),
    *onnx_cases(),
    *hdf5_cases(),
    *dcp_cases(),
    *tar_cases(),
    *array_cases(),
    *bombs(),
]
