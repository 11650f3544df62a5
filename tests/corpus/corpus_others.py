"""Files of other formats that lie, are broken, or reach out of their folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus_tools import (
    RAN,
    SIX,
    C,
    Case,
    L,
    Link,
    N,
    Record,
    U,
    archive,
    entry,
    fact,
    gguf,
    npy,
    npy_header,
    one,
    payload,
    pickled,
    safetensors,
    torch_zip,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOOD = safetensors({"w": entry()})
TWICE = (
    '{"w":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
)


def safetensors_cases() -> Iterator[Case]:
    bad = {
        "empty": (b"", C, "empty"), "seven": (bytes(7), C, "8"), "length_0": (safetensors("", length=0), C, "header"),
        "length_past": (safetensors({"w": entry()}, length=9999), C, "header"), "length_max": (safetensors({"w": entry()}, length=-1), C, "header"),
        "length_limit": (safetensors({"w": entry()}, length=100_000_001), L, "header"), "utf8": (safetensors(b'{"\xff":1}'), C, "UTF-8"),
        "nan": (safetensors('{"w":NaN}'), C, "JSON"), "comma": (safetensors('{"w":{},}'), C, "JSON"), "twice": (safetensors(TWICE), C, "duplicate"),
        "space": (safetensors(" " + json.dumps({"w": entry()})), C, "{"), "bom": (safetensors(b"\xef\xbb\xbf{}"), C, "{"), "list": (safetensors("[1]"), C, "not a checkpoint"),
        "deep": (safetensors('{"w":' + "[" * 100_000 + "}"), C, "JSON"), "overlap": (safetensors({"a": entry(), "b": entry()}), C, "overlap"),
        "hole": (safetensors({"a": entry(), "b": entry(at=(32, 56))}, SIX + bytes(8) + SIX), C, "belong"), "tail": (safetensors({"a": entry()}, SIX + b"xx"), C, "belong"),
        "reversed": (safetensors({"w": entry(at=(24, 0))}), C, "offset"), "past": (safetensors({"w": entry((2000, 3), at=(0, 24000))}), C, "offset|truncated"),
        "overflow": (safetensors({"w": entry((1 << 32, 1 << 32), at=(0, 0))}, b""), C, "w"), "wide": (safetensors({"w": entry((1 << 64,), at=(0, 0))}, b""), C, "w"),
        "many_dims": (safetensors({"w": entry((1 << 62,) * 100_000)}), L, "dimensions"), "long_number": (safetensors('{"w":' + "9" * 5000 + "}"), C, "JSON"),
        "dtype": (safetensors({"w": entry(dtype=4)}), C, "dtype"), "dtype_unknown": (safetensors({"w": entry(dtype="F128")}), C, "dtype"), "f4": (safetensors({"w": entry((4,), "F4", (0, 2))}, b"ab"), N, "F4"),
        "no_shape": (safetensors('{"w":{"dtype":"F32","data_offsets":[0,24]}}'), C, "shape"), "float_shape": (safetensors({"w": entry((2.0, 3))}), C, "shape"),
        "true_shape": (safetensors({"w": entry((True, 6))}), C, "shape"), "metadata": (safetensors({"__metadata__": {"a": 1}, "w": entry()}), C, "__metadata__"),
        "bool": (safetensors({"w": entry((4,), "BOOL", (0, 4))}, b"\0\1\2\xff"), C, "bool"), "none": (safetensors("{}", b""), N, "no tensors"), "surrogate": (safetensors('{"a\\ud800":' + json.dumps(entry()) + "}"), C, "name"),
        "cut": (GOOD[:-5], C, "truncated"), "cut_header": (GOOD[:30], C, "truncated"), "extra_field": (safetensors({"w": entry() | {"strides": [1]}}), "", "strides"),
    }  # fmt: skip
    for label, (content, error, words) in bad.items():
        yield one(f"safetensors_{label}", content, error, words, suffix="safetensors")


def numpy_cases() -> Iterator[Case]:
    good = npy(npy_header())
    bad = {
        "object": (npy(npy_header("|O", "(1,)"), pickled(payload())), U, "object", "CVE-2019-6446"), "call": (npy(f"{{'descr': __import__('os').mkdir('{RAN}'), 'fortran_order': False, 'shape': (6,)}}"), C, "header"),
        "extra_call": (npy(npy_header()[:-2] + "'x': __import__('os')}"), C, "header"), "length": (npy(npy_header(), length=60_000), C, "header"), "length_4g": (npy(npy_header(), version=(2, 0), length=0xFFFFFFFF), C, "header"),
        "version": (npy(npy_header(), version=(9, 9)), C, "version"), "brackets": (npy(npy_header(shape="(" * 3000), version=(2, 0)), C, "header"), "digits": (npy(npy_header(shape="(" + "9" * 50_000), version=(2, 0)), C, "header"),
        "huge": (npy(npy_header(shape="(1099511627776,)")), C, "size"), "negative": (npy(npy_header(shape="(-2, -3)")), C, "shape"), "tail": (npy(npy_header(), SIX + b"xx"), C, "size"), "cut": (good[:-4], C, "size"),
        "magic": (good[:6], C, "truncated"), "dates": (npy(npy_header("<M8[ns]", "(3,)")), N, "dtype"), "form_feed": (npy(npy_header(shape="(2\f 3,)")), C, "header"), "table": (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}"), N, "dtype"),
    }  # fmt: skip
    for label, (content, error, words, *known) in bad.items():
        yield one(f"npy_{label}", content, error, words, *known, suffix="npy")
    npz = {
        "twice": ([Record(name="a.npy", data=good), Record(name="a.npy", data=good)], C, "duplicate"), "traversal": ([Record(name="../../a.npy", data=good)], U, r"\.\./"),
        "crc": ([Record(name="a.npy", data=good, crc=1)], C, "CRC"), "bomb": ([Record(name="a.npy", data=npy(npy_header(shape="(18350080,)"), bytes(70 << 20)), method=8)], L, "ratio"),
        "member_cut": ([Record(name="a.npy", data=good[:40])], C, "a.npy"), "other": ([Record(name="a.npy", data=good), Record(name="readme.txt")], "", "readme.txt"),
    }  # fmt: skip
    for label, (members, error, words) in npz.items():
        yield one(f"npz_{label}", archive(members), error, words, suffix="npz")


def gguf_cases() -> Iterator[Case]:
    w = [("w", (3, 2), 0, 0)]
    overflow = ("CVE-2025-53630", "CVE-2026-27940", "CVE-2026-33298")
    bad = {
        "tensors": (gguf(w, counts=(1 << 60, 0)), C, "tensors", *overflow), "pairs": (gguf(w, counts=(1, 1 << 60)), C, "key"), "array": (gguf(w, fact("a", 9, struct.pack("<IQ", 0, 1 << 61))), C, "array", "CVE-2026-53923"),
        "texts": (gguf(w, fact("a", 9, struct.pack("<IQ", 8, 1 << 60))), C, "array"), "nested": (gguf(w, fact("a", 9, struct.pack("<IQ", 9, 1) * 5000 + struct.pack("<IQ", 0, 0))), L, "depth"),
        "offset": (gguf([("w", (3, 2), 0, 1 << 40)]), C, "w"), "shape": (gguf([("w", (1 << 63, 1 << 63, 4), 0, 0)]), C, "w", *overflow), "overlap": (gguf([("a", (3, 2), 0, 0), ("b", (3, 2), 0, 0)]), C, "overlap"),
        "alignment": (gguf(w, fact("general.alignment", 4, bytes(4))), C, "alignment"), "alignment_33": (gguf(w, fact("general.alignment", 4, struct.pack("<I", 33))), C, "alignment"),
        "twice": (gguf([*w, ("w", (3, 2), 0, 32)], data=bytes(64)), C, "duplicate"), "type": (gguf([("w", (3, 2), 250, 0)]), N, "250"), "quantised": (gguf([("w", (32,), 8, 0)], data=bytes(34)), N, "quantised"),
        "cut": (gguf(w)[:-20], C, "truncated"), "cut_head": (gguf(w)[:30], C, "truncated"), "version": (gguf(w, version=99), N, "version"), "tail": (gguf(w) + bytes(100), C, "after"), "dims": (gguf([("w", (1,) * 70, 0, 0)]), C, "dimensions"),
    }  # fmt: skip
    for label, (content, error, words, *known) in bad.items():
        yield one(f"gguf_{label}", content, error, words, *known, suffix="gguf")


def shard_cases() -> Iterator[Case]:
    name = "model.safetensors.index.json"
    a, b = safetensors({"a": entry()}), safetensors({"b": entry()})

    def case(label: str, index: Any, error: str, words: str, *known: str, opens: str = name, **files: Any) -> Case:
        text = index if isinstance(index, bytes) else json.dumps({"metadata": {}, "weight_map": index}).encode()
        kind = f"{error}CheckpointError" if error else ""
        others = {key.replace("_", "."): content for key, content in files.items()}
        return Case(
            name=f"shards_{label}", files={name: text, **others}, error=kind, words=words, opens=opens, known=known
        )

    names = (
        "transformers#46097",
        "transformers#47176",
        "transformers#46913",
        "accelerate#4067",
        "accelerate#4070",
        "diffusers#14175",
    )
    yield case("dotdot", {"a": "../a.safetensors"}, U, r"\.\.", *names)
    yield case("absolute", {"a": "/etc/a.safetensors"}, U, "absolute", *names)
    yield case("url", {"a": "http://127.0.0.1:9/a.safetensors"}, U, "weight_map")
    yield case("drive", {"a": "C:\\a.safetensors"}, U, "absolute")
    yield case("nul", {"a": "a\0.safetensors"}, U, "weight_map")
    yield case("itself_as_folder", {"a": "."}, U, "weight_map names the shard '.'")
    yield case("dots_and_slashes", {"a": "./."}, U, "weight_map names the shard './.'")
    yield case("missing", {"a": "a.safetensors"}, C, "missing")
    yield case("key_missing", {"c": "a.safetensors"}, C, "missing", a_safetensors=a)
    yield case(
        "key_elsewhere",
        {"a": "b.safetensors", "b": "a.safetensors"},
        C,
        "another shard than",
        a_safetensors=a,
        b_safetensors=b,
    )
    yield case(
        "key_in_two", {"a": "a.safetensors", "x": "b.safetensors"}, C, "two shards", a_safetensors=a, b_safetensors=a
    )
    yield case("folder", {"a": "a.safetensors"}, C, "not a regular file", a_safetensors=None)
    yield case("device", {"a": "a.safetensors"}, U, "not a regular file", a_safetensors=Link("/dev/zero"))
    yield case("link_out", {"a": "a.safetensors"}, U, "outside", "CVE-2026-34447", a_safetensors=Link("/etc/hostname"))
    yield case("itself", {"a": name}, C, "index itself")
    yield case("pickle", {"a": "a.safetensors"}, C, "named .safetensors", a_safetensors=torch_zip(pickled(payload())))
    yield case("no_json", b"{weight_map: ", C, "JSON")
    yield case("deep", b'{"weight_map":' + b"[" * 100_000, C, "JSON")
    yield case("list", b'{"weight_map": ["a"]}', C, "weight_map")
    yield case("twice", b'{"weight_map": {"a": "x", "a": "y"}}', C, "duplicate")
    more = safetensors({"a": entry(), "b": entry(at=(24, 48))}, SIX + SIX)
    yield case("extra", {"a": "a.safetensors"}, "", "as b", a_safetensors=more)
    cache = {
        "models--o--n/blobs/ff": a,
        "models--o--n/snapshots/0/a.safetensors": Link("../../blobs/ff"),
        f"models--o--n/snapshots/0/{name}": json.dumps({"weight_map": {"a": "a.safetensors"}}).encode(),
    }
    yield Case(name="shards_cache", files=cache, opens=f"models--o--n/snapshots/0/{name}")
    other = {
        **cache,
        "models--x--y/blobs/ff": a,
        "models--o--n/snapshots/0/a.safetensors": Link("../../../models--x--y/blobs/ff"),
    }
    yield Case(
        name="shards_cache_of_another",
        files=other,
        opens=f"models--o--n/snapshots/0/{name}",
        error="UnsafeCheckpointError",
        words="outside",
    )
    hop = {
        "m/" + name: json.dumps({"weight_map": {"a": "sub/a.safetensors"}}).encode(),
        "x/a.safetensors": a,
        "m/sub": Link("../x"),
    }
    yield Case(name="shards_folder_link", files=hop, error="UnsafeCheckpointError", words="outside")


def dcp_edited(change: Callable[[Any], Any]) -> dict[str, bytes]:
    """The files of a distributed checkpoint whose table was changed."""
    return {
        f"ckpt/{k}": v for k, v in (DCP | {".metadata": pickle.dumps(change(pickle.loads(DCP[".metadata"])))}).items()
    }


def dcp_cases() -> Iterator[Case]:
    edited = dcp_edited

    def each(**facts: Any) -> Callable[[Any], Any]:
        def change(meta: Any) -> Any:
            for info in meta.storage_data.values():
                for key, given in facts.items():
                    object.__setattr__(info, key, given)
            return meta

        return change

    def tensor_fact(**facts: Any) -> Callable[[Any], Any]:
        def change(meta: Any) -> Any:
            for key, given in facts.items():
                setattr(meta.state_dict_metadata["w"], key, given(getattr(meta.state_dict_metadata["w"], key)))
            return meta

        return change

    runs = {f"ckpt/{k}": v for k, v in (DCP | {".metadata": pickled(payload())}).items()}
    own = ("GHSA-ppvg-47fv-5f4w", "GHSA-h6w6-rm56-8m58", "pytorch#189308")
    yield _dcp("payload", runs, U, "posix.mkdir", *own)
    yield _dcp("dotdot", edited(each(relative_path="../x.distcp")), U, r"\.\.")
    yield _dcp("absolute", edited(each(relative_path="/etc/hostname")), U, "absolute")
    yield _dcp("offset", edited(each(offset=-5)), C, "offset")
    yield _dcp("past", edited(each(offset=1 << 40)), C, "truncated|offset")
    yield _dcp("missing_file", edited(each(relative_path="nope.distcp")), C, "no such file")
    yield _dcp("transform", edited(each(transform_descriptors=["zstd"])), N, "transform")
    yield _dcp("no_chunks", edited(tensor_fact(chunks=lambda _: [])), C, "cover")
    yield _dcp("overlap", edited(tensor_fact(chunks=lambda c: c * 2)), C, "w")
    yield _dcp("hole", edited(tensor_fact(size=lambda s: type(s)((4, 3)))), C, "cover")
    yield _dcp("huge", edited(tensor_fact(size=lambda s: type(s)((1 << 50,)))), C, "w")
    yield _dcp("cut", {f"ckpt/{k}": v[:-40] if k == ".metadata" else v for k, v in DCP.items()}, C, ".metadata")
    yield _dcp("no_metadata", {f"ckpt/{k}": v for k, v in DCP.items() if k != ".metadata"}, C, ".metadata")
    yield _dcp("good", {f"ckpt/{k}": v for k, v in DCP.items()}, "", "")


def _dcp(label: str, files: dict[str, bytes], error: str, words: str, *known: str) -> Case:
    kind = f"{error}CheckpointError" if error else ""
    return Case(name=f"dcp_{label}", files=files, error=kind, words=words, opens="ckpt", known=known)


def _dcp_files() -> dict[str, bytes]:
    import torch
    import torch.distributed.checkpoint as dcp

    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"w": torch.arange(6.0).reshape(2, 3), "step": 3}, storage_writer=dcp.FileSystemWriter(place))
        return {p.name: p.read_bytes() for p in Path(place).iterdir()}


def hdf5_cases() -> Iterator[Case]:
    import h5py

    def file(fill: Callable[[Any], Any]) -> bytes:
        out = io.BytesIO()
        with h5py.File(out, "w") as root:
            fill(root)
        return out.getvalue()

    def loops(root: Any) -> None:
        root["a"], root["b"], root["w"] = h5py.SoftLink("/b"), h5py.SoftLink("/a"), [1.0]

    def laughs(root: Any) -> None:
        last = root.create_group("leaf")
        last["w"] = [1.0]
        for i in range(40):
            group = root.create_group(f"g{i}")
            group["a"], group["b"] = last, last
            last = group

    def virtual(root: Any) -> None:
        layout = h5py.VirtualLayout(shape=(2,), dtype="f8")
        layout[:] = h5py.VirtualSource("/etc/hostname", "s", shape=(2,))
        root.create_virtual_dataset("w", layout)

    keras = ("CVE-2026-1669", "GHSA-3m4q-jmj6-r34q")
    good = file(lambda r: r.__setitem__("w", list(range(500))))
    bad = {
        "external_link": (file(lambda r: r.__setitem__("w", h5py.ExternalLink("/etc/hostname", "/s"))), U, "external", *keras),
        "external_storage": (file(lambda r: r.create_dataset("w", (8,), "u1", external=[("/etc/hostname", 0, 8)])), U, "external", *keras),
        "virtual": (file(virtual), U, "virtual", *keras), "loops": (file(loops), C, "loop"), "laughs": (file(laughs), L, "ways"), "cut": (good[:-900], C, "truncated"),
        "bomb": (file(lambda r: r.create_dataset("w", (1 << 34,), "f4", chunks=(1 << 20,))), L, "hardly any"), "nothing": (file(lambda _: None), N, "no tensors"), "good": (good, "", ""),
    }  # fmt: skip
    for label, (content, error, words, *known) in bad.items():
        yield one(f"hdf5_{label}", content, error, words, *known, suffix="h5")


MISSING = "MissingFileError"


def path_cases() -> Iterator[Case]:
    def case(label: str, files: dict[str, Any], error: str, words: str, opens: str = "") -> Case:
        return Case(
            name=f"path_{label}",
            files=files,
            error=f"{error}CheckpointError" if error and error != MISSING else error,
            words=words,
            opens=opens,
        )

    yield case("loop", {"a.pt": Link("b.pt"), "b.pt": Link("a.pt")}, C, "loop")
    yield case("dangling", {"a.pt": Link("nowhere")}, MISSING, "no such file")
    yield case("device", {"a.pt": Link("/dev/zero")}, C, "not a regular file")
    yield case("no_folder", {"x": b"x"}, C, "", opens="x/y.pt")
    yield case("empty_folder", {"x": None}, N, "folder")
    yield case("several", {"x/a.pt": torch_zip(), "x/b.pt": torch_zip()}, N, "several", opens="x")
    yield case("odd_name", {"\x1b[2J\u202ex\n.pt": b"junk" * 9}, C, "x1b")
    yield case("bytes_name", {os.fsdecode(b"\xff\xfe.pt"): torch_zip()}, "", "")
    yield case("long_name", {"x": None}, C, "", opens="n" * 300)
    yield case("link", {"r/x.pt": torch_zip(), "x.pt": Link("r/x.pt")}, "", "", opens="x.pt")


DCP = _dcp_files()
ALL = [*safetensors_cases(), *numpy_cases(), *gguf_cases(), *shard_cases(), *dcp_cases(), *hdf5_cases(), *path_cases()]
