"""Files of published faults that no other file of the corpus shows, and combinations of faults."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

from corpus_tools import (
    SIX,
    C,
    Case,
    HardLink,
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
    yield one("other_ending_inside", torch_zip(W, None, hidden), "", "that no checkpoint has", "CVE-2025-1889")
    yield one("pickle_named_bin", pickled(payload()), U, "posix.mkdir", "CVE-2025-10155", suffix="bin")
    engine = name("torch._C", "_ImperativeEngine") + b")\x81"
    yield one("made_of_a_binding", torch_zip(pickled(value({"w": tensor(), "x": engine}))), "", "", "pytorch#194647")
    yield _onnx("dotdot", "../x.data", {"x.data": SIX}, U, r"\.\.", "CVE-2022-25882", "CVE-2024-27318")
    yield _onnx("link_out", "x.data", {"x.data": SIX, "m/x.data": Link("../x.data")}, U, "outside", "CVE-2026-27489")
    yield _onnx("beside", "x.data", {"m/x.data": SIX}, "", "")
    # Another name of the same file is that file: nothing is read that the folder doesn't hold.
    yield _onnx("hard_link", "x.data", {"x.data": SIX, "m/x.data": HardLink("x.data")}, "", "", "CVE-2026-34446")
    lambda_layer = json.dumps({"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None]}})
    yield one("hdf5_lambda", _hdf5(model_config=lambda_layer), "", "", "GHSA-36rr-ww3j-vrjv", suffix="h5")
    yield from _exported()
    broken = {
        "underflow": b"\x87.", "dangling": b"h\x09.", "cut_number": b"J\x01\x02", "no_text": b"X\2\0\0\0\xff\xfe.",
        "no_mark": b"t.", "nothing_to_call": b"R.", "nothing_to_fill": b"}K\1s.",
    }  # fmt: skip
    for label, code in broken.items():
        yield one(f"torn_pickle_{label}", torch_zip(b"\x80\2" + code), C, "", "pytorch#127525")


def _hdf5(**attributes: str) -> bytes:
    import h5py

    out = BytesIO()
    with h5py.File(out, "w") as root:
        root["w"] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
        root.attrs.update(attributes)
    return out.getvalue()


def _exported() -> Iterator[Case]:
    """Yield archives of torch.export, whose loader takes pickles beside the weights."""
    good = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": _meta([2, 3], [3, 1])}
    runs = Record(name="m/data/sample_inputs/model.pt", data=pickled(payload()))
    known = "CVE-2026-4538"
    yield one("pt2_inputs_run", _pt2({"w": good}, runs), "", "", known, suffix="pt2")
    yield one("pt2_weight_runs", _pt2({"w": good | {"use_pickle": True}}, runs), N, "pickled", known, suffix="pt2")
    yield one("pt2_outside", _pt2({"w": good | {"path_name": "../../x"}}), C, "record's name", known, suffix="pt2")
    wide = good | {"tensor_meta": _meta([2, 300], [300, 1])}
    yield one("pt2_too_wide", _pt2({"w": wide}), C, "out of bounds|bytes", known, suffix="pt2")


def _meta(sizes: list[int], strides: list[int]) -> dict[str, Any]:
    sized, strided = ([{"as_int": n} for n in numbers] for numbers in (sizes, strides))
    return {"dtype": 7, "sizes": sized, "strides": strided, "storage_offset": {"as_int": 0}, "layout": 7}


def _pt2(config: dict[str, Any], *more: Record) -> bytes:
    table = json.dumps({"config": config}).encode()
    made = [
        Record(name="m/archive_format", data=b"pt2"),
        Record(name="m/byteorder", data=b"little"),
        Record(name="m/data/weights/model_weights_config.json", data=table),
        Record(name="m/data/weights/weight_0", data=SIX),
    ]
    return archive([*made, *more])


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
