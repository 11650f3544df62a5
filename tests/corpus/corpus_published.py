"""Files of published faults that no other file of the corpus shows, and combinations of faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corpus_tools import (
    SIX,
    C,
    Case,
    Link,
    N,
    Record,
    U,
    W,
    archive,
    call,
    fact,
    gguf,
    legacy,
    name,
    one,
    payload,
    pickled,
    records,
    safetensors,
    storage,
    tensor,
    torch_zip,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def published() -> Iterator[Case]:
    hidden = Record(name="m/config.p", data=pickled(payload()))
    yield one("other_ending_inside", torch_zip(W, None, hidden), "", "no part of the checkpoint", "CVE-2025-1889")
    yield one("pickle_named_bin", pickled(payload()), U, "posix.mkdir", "CVE-2025-10155", suffix="bin")
    engine = name("torch._C", "_ImperativeEngine") + b")\x81"
    yield one("made_of_a_binding", torch_zip(pickled(value({"w": tensor(), "x": engine}))), "", "", "pytorch#194647")
    yield _onnx("dotdot", "../x.data", {"x.data": SIX}, U, r"\.\.", "CVE-2022-25882", "CVE-2024-27318")
    yield _onnx("link_out", "x.data", {"x.data": SIX, "m/x.data": Link("../x.data")}, U, "outside", "CVE-2026-27489")
    yield _onnx("beside", "x.data", {"m/x.data": SIX}, "", "")


def _onnx(label: str, location: str, files: dict[str, Any], error: str, words: str, *known: str) -> Case:
    from onnx import TensorProto, helper

    outside = TensorProto(name="w", dims=[2, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value=location)
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [outside])
    kind = f"{error}CheckpointError" if error else ""
    made = {"m/m.onnx": helper.make_model(graph).SerializeToString(), **files}
    return Case(name=f"onnx_{label}", files=made, error=kind, words=words, opens="m/m.onnx", known=known)


def combined() -> Iterator[Case]:
    """Several faults at once: what would run is named before what is broken."""
    runs = pickled(value({"w": tensor(), "x": payload()}))
    lies = {"w": tensor((200, 3)), "x": payload()}
    big = records(order=b"big")
    good, numbers = torch_zip(), gguf([("w", (3, 2), 0, 0)])
    of_subclass = (name("torch._utils", "_rebuild_tensor_v2"), name("my.models", "T"))
    facts = (storage(), 0, (2, 3), (3, 1), False, call(name("collections", "OrderedDict")))
    subclass = call(name("torch._tensor", "_rebuild_from_type_v2"), *of_subclass, facts, None)
    python2 = call(name("__builtin__", "xrange"), 0, 5, 1)
    cases = {
        "payload_deflated": (archive([Record(name=r.name, data=r.data, method=8) for r in records(runs)]), U, "posix.mkdir"),
        "payload_and_lie": (torch_zip(pickled(value(lies))), U, "posix.mkdir"),
        "payload_and_gap": (torch_zip(pickled(value({"w": tensor(of=storage("9")), "x": payload()}))), U, "posix.mkdir"),
        "payload_legacy": (legacy(runs), U, "posix.mkdir"),
        "big_without_crc": (archive([Record(name=r.name, data=r.data, crc=0) for r in big]), "", "endian"),
        "big_bad_crc": (archive([Record(name=r.name, data=r.data, crc=1) for r in big]), C, "CRC"),
        "subclass": (torch_zip(pickled(value({"w": subclass}))), "", ""),
        "range_of_python2": (torch_zip(pickled(value({"w": tensor(), "x": python2, "y": name("__builtin__", "long")}))), "", ""),
        "safetensors_and_zip": (safetensors({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}) + good, C, "two formats"),
        "gguf_and_zip": (numbers + good, C, "two formats"),
        "gguf_part": (gguf([("w", (3, 2), 0, 0)], fact("split.count", 2, b"\3\0")), "", "part 0 .from 0 on. of 3"),
        "f4": (torch_zip(pickled(value({"w": tensor(of=storage(kind="QUInt4x2Storage"))}))), N, "quantised"),
    }  # fmt: skip
    for label, (content, error, words) in cases.items():
        yield one(f"combined_{label}", content, error, words)
    yield Case(
        name="shards_of_none",
        files={"m/model-00000-of-00000.safetensors": safetensors({"w": {}})},
        error="CorruptCheckpointError",
        words="one of no shards",
        opens="m",
    )


ALL = [*published(), *combined()]
