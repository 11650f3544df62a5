"""Files whose faults are small: one record, one number, one name that readers take unlike, or that costs hours of work."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

from corpus_tools import (
    SIX,
    C,
    Case,
    L,
    Link,
    N,
    Record,
    U,
    W,
    archive,
    call,
    entry,
    fact,
    gguf,
    legacy,
    name,
    npy,
    npy_header,
    number,
    one,
    payload,
    pickled,
    records,
    safetensors,
    state,
    storage,
    string,
    tensor,
    text,
    torch_zip,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Python's hash of a whole number is its rest after division by this one: all multiples of it meet in a dictionary.
MODULUS = (1 << 61) - 1


def meeting(count: int, wrap: Callable[[bytes], bytes] = bytes) -> bytes:
    return b"".join(wrap(number(MODULUS * k)) for k in range(1, count + 1))


def work() -> Iterator[Case]:
    """Small files over which an interpreter that believes them would sit for hours, or fill the memory."""
    many = 120_000
    inside = b"}(" + text("w") + tensor() + text("s")
    bad = {
        "keys_meet": (b"}(" + meeting(many, lambda n: n + b"N") + text("w") + tensor() + b"u", "bits as a dictionary key"),
        "keys_in_tuples_meet": (b"}(" + meeting(many, lambda n: n + b"\x85N") + text("w") + tensor() + b"u", "bits as a"),
        "members_meet": (inside + b"\x8f(" + meeting(many) + b"\x90u", "bits as a"),
        "frozen_members_meet": (inside + b"(" + meeting(many) + b"\x91u", "bits as a"),
        "many_tuples_as_keys": (b"}(" + b"".join(number(k) + b"\x85N" for k in range(1, 20_001)) + text("w") + tensor() + b"u", "tuples as"),
        "nothing_for_long": (b"N0" * (5 << 20) + value({"w": tensor()}), "far too many for the file"),
        "high_stack": (b"N" * (5 << 20), "values on the pickle's stack"),
        "many_marks": (b"(" * (5 << 20), "values on the pickle's stack"),
    }  # fmt: skip
    for label, (body, words) in bad.items():
        yield one(f"work_{label}", torch_zip(pickled(body, 4)), L, words)
    memo = b"".join(b"Np%d\n0" % (MODULUS * k) for k in range(1, many + 1))
    yield one("work_memo_meets", torch_zip(pickled(memo + value({"w": tensor()}))), C, "memo entry")
    yield one(
        "work_shapes_meet", torch_zip(pickled(meeting(many, lambda n: n + b"\x850") + value({"w": tensor()}))), "", ""
    )


def torch_details() -> Iterator[Case]:
    def of(kind: bytes) -> bytes:
        return state(w=tensor(of=value(("storage", kind, "0", "cpu", 6)) + b"Q"))

    empty = tensor((0, 1 << 62, 1 << 62), (1, 1, 1), of=storage(count=0))
    lazy = state(v=tensor(), w=call(name("torch.nn.parameter", "UninitializedParameter")))
    with_extra = {r.name: r for r in records()}
    with_extra["m/version"].extra = b"\1\0\xff\xff"
    masked = records()
    masked[0].flags = 0x2000
    false_local = [*records(), Record(name="m/.data/serialization_id", local_name="m/.data/serialization_xx")]
    bad: dict[str, tuple[bytes, str, str]] = {
        "version_word": (torch_zip(version=b"three"), C, "version says b'three'"), "version_none": (torch_zip(version=b""), C, "version"), "version_0": (torch_zip(version=b"0\n"), N, "versions 1 to"),
        "protocol_255": (torch_zip(b"\x80\xff" + W[2:]), C, "protocol 255"), "protocol_6": (torch_zip(b"\x80\6" + W[2:]), N, "protocol 6"),
        "storage_foo": (torch_zip(of(name("torch", "FooStorage"))), N, "torch.FooStorage"), "storage_foreign": (torch_zip(of(name("posix", "mkdir"))), U, "posix.mkdir"), "storage_text": (torch_zip(of(text("FloatStorage"))), C, "persistent id"),
        "empty_but_endless": (torch_zip(state(w=empty), {"0": b""}), C, "too large for any tensor"), "too_many_elements": (torch_zip(state(w=tensor((1 << 40, 1 << 40), (0, 0)))), C, "more than any tensor"),
        "uninitialised": (torch_zip(lazy), N, "tensor w is an uninitialised parameter"), "path_dot": (torch_zip(W, None, Record(name="m/./data/0", data=SIX)), C, "parts of no name"), "path_slashes": (torch_zip(W, None, Record(name="m//data/0", data=SIX)), C, "parts of no name"),
        "extra_field": (archive(list(with_extra.values())), C, "extra fields"), "masked": (archive(masked), C, "encrypted"), "unread_local_name": (archive(false_local), C, "local header"),
        "compressed_pickle": (archive([Record(name=r.name, data=r.data, method=8 * r.name.endswith("pkl")) for r in records()]), "", "compressed"),
        "key_empty": (torch_zip(state(**{"": tensor()})), "", "key is empty"), "key_long": (torch_zip(state(**{"k" * 5000: tensor()})), "", "keys of up to 5000"),
        "flags_list": (torch_zip(state(w=tensor(rest=(["conj"],)))), C, "flags"), "view_in_zip": (torch_zip(state(w=tensor(of=storage(more=(("v", 0, 3),))))), C, "view of a storage"),
        "dict_of_number": (torch_zip(state(w=tensor(), x=call(name("collections", "OrderedDict"), 5))), C, "a dictionary made of 5"), "stack_empty": (torch_zip(b"\x80\4\x94."), C, "from an empty stack"),
        "bits": (torch_zip(state(w=call(name("torch._utils", "_rebuild_tensor_v3"), storage(), 0, (6,), (1,), False, {}, name("torch", "bits8")))), N, r"not read \(torch.bits8\)"),
        "packed_bzip2": (archive([Record(name=r.name, data=r.data, method=12 * r.name.endswith("/0")) for r in records()]), N, "bzip2"),
        "inside_a_zip": (archive([Record(name="model.safetensors", data=safetensors({"w": entry()}))]), N, "holds model.safetensors: unpack"),
        "old_pt2": (archive([Record(name="serialized_exported_program.json"), Record(name="serialized_state_dict.pt", data=torch_zip())]), N, "older layout"),
        "legacy_twice": (legacy() * 2, C, "after the last storage"),
    }  # fmt: skip
    for label, (content, error, words) in bad.items():
        yield one(f"detail_{label}", content, error, words)


def tar(
    storages: bytes | None = None,
    tensors: bytes | None = None,
    objects: bytes = pickled(b"}" + text("w") + number(7) + b"Qs"),
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        parts = {"storages": tar_storages() if storages is None else storages, "tensors": tar_tensors() if tensors is None else tensors, "pickle": objects}  # fmt: skip
        for label, content in parts.items():
            member = tarfile.TarInfo(label)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return out.getvalue()


def tar_storages(*keys: Any, views: Any = (), tail: bytes = b"") -> bytes:
    keys = keys or ("0",)
    out = pickled(number(len(keys)))
    for key in keys:
        out += pickled(value((key, "cpu", name("torch", "FloatStorage")))) + struct.pack("<q", 6) + SIX
    return out + pickled(value(list(views))) + tail


def tar_tensors(key: Any = 7, root: Any = "0", tail: bytes = b"") -> bytes:
    head = pickled(number(1)) + pickled(value((key, root, name("torch", "FloatTensor"))))
    return head + struct.pack("<ii5q", 2, 0, 2, 3, 3, 1, 0) + tail


def packed(label: str, size: bytes = b"", form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        member = tarfile.TarInfo(label)
        member.size = 4
        made.addfile(member, io.BytesIO(b"more"))
    head = bytearray(out.getvalue())
    head[124 : 124 + len(size)] = size
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:512]))
    return bytes(head)


def tars() -> Iterator[Case]:
    bad = {
        "long_name": (packed("n" * 150), N, "a tar archive without storages"), "long_name_pax": (packed("n" * 150, form=tarfile.PAX_FORMAT), N, "a tar archive without storages"),
        "size_below_0": (packed("a", b"-0000000004\0"), C, "size"), "size_in_base_256": (packed("a", b"\x80" + bytes(10) + b"\4"), N, "without storages"),
        "of_weights": (packed("./a/model_weights.ckpt"), N, "it holds a/model_weights.ckpt: unpack it"), "good": (tar(), "", "tar"), "key_twice": (tar(tar_storages("0", 0)), C, "given twice"), "key_list": (tar(tar_storages(["0"])), C, "no key"), "root_list": (tar(tensors=tar_tensors(root=["0"])), C, "key of no storage"),
        "tensor_key_list": (tar(tensors=tar_tensors(key=[7])), C, "no key"), "view_words": (tar(tar_storages(views=[("v", "0", "a", "b")])), C, "no \\(key, storage, offset, size\\)"),
        "view_long": (tar(tar_storages(views=[("v", "0", 4, 9)])), C, "view reaches"), "storages_tail": (tar(tar_storages(tail=b"more")), C, "bytes after"),
        "tensors_tail": (tar(tensors=tar_tensors(tail=b"more")), C, "bytes after"), "pickle_tail": (tar(objects=pickled(b"}") + b"more"), C, "bytes after"), "payload": (tar(objects=pickled(payload())), U, "posix.mkdir", "CVE-2025-32434"),
    }  # fmt: skip
    for label, (content, error, words, *known) in bad.items():
        yield one(f"tar_{label}", content, error, words, *known, suffix="pth")


def other_formats() -> Iterator[Case]:
    good, w = npy(npy_header()), [("w", (3, 2), 0, 0)]
    half = '{"__metadata__":{"a":"\\ud800"},"w":' + json.dumps(entry()) + "}"
    texts = npy(npy_header("<U4", "(1,)"), bytes(16))
    more = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': [].__class__}"
    gaps = gguf([("a", (3, 2), 0, 0), ("b", (3, 2), 0, 1024)], data=bytes(1056))
    bad: dict[str, tuple[str, bytes, str, str]] = {
        "metadata_surrogate": ("safetensors", safetensors(half), C, "__metadata__"), "metadata_digits": ("safetensors", safetensors('{"w":' + "9" * 5000 + "}"), C, "thousands of digits"),
        "empty_but_endless": ("safetensors", safetensors({"w": entry((0, 1 << 62, 1 << 62), at=(0, 0))}, b""), C, "too large for any tensor"),
        "npy_endless": ("npy", npy(npy_header(shape="(0, 9999999999999999999999)"), b""), C, "too large for any tensor"), "npy_more_fields": ("npy", npy(more), C, "header"),
        "npy_object_inside": ("npy", npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }", pickled(payload())), U, "object"), "npy_python_2": ("npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }"), "", ""),
        "npz_texts_beside": ("npz", archive([Record(name="w.npy", data=good), Record(name="names.npy", data=texts)]), "", "left out 1 array of no numbers, as .*names"), "npz_texts": ("npz", archive([Record(name="names.npy", data=texts)]), N, "dtype"),
        "gguf_name": ("gguf", gguf(w).replace(string("w"), struct.pack("<Q", 1) + b"\xff"), C, "UTF-8"), "gguf_gap": ("gguf", gaps, C, "belong to nothing"), "gguf_first_gap": ("gguf", gguf([("w", (3, 2), 0, 32)], data=bytes(64)), C, "before the first"),
        "gguf_fact_not_text": ("gguf", gguf(w, fact("a", 8, struct.pack("<Q", 1) + b"\xff")), "", ""),
        "gguf_alignment_true": ("gguf", gguf(w, fact("general.alignment", 7, b"\1")), C, "alignment is True"), "gguf_newest": ("gguf", gguf([("w", (64,), 40, 0)], data=bytes(64)), N, "NVFP4"),
        "index_empty": ("index.json", b"", C, "empty file"), "yaml": ("yaml", b"model:\n  layers: 3\n  width: 12\n", C, "not a checkpoint"), "lz4": ("pt", b"\x04\x22\x4d\x18" + bytes(40), N, "lz4"),
        "text": ("pt", b"a\x1b[31m\nmore lines\n", C, r"begins with"), "words": ("pt", b"import torch\nfrom torch import nn\n", C, "a text that begins 'import torch'"), "base64": ("pt", b"QUJD" * 300, C, "a text that begins 'QUJD"),
        "page_of_windows": ("pt", "<!DOCTYPE html><p>gone".encode("utf-16"), C, "a web page"), "comment": ("pt", b"<!-- a --><html>", C, "a web page"), "zlib": ("pt", zlib.compress(SIX), N, "zlib"),
        "zeros": ("bin", bytes(4096), C, "begins with 0000.* header .* broken off"), "pdf": ("pt", b"%PDF-1.4\n" + bytes(40), C, "not a checkpoint, but a PDF"), "matlab": ("mat", b"MATLAB 5.0 MAT-file" + bytes(120), C, "-v7.3"),
        "archive_without_folder": ("pt", archive([Record(name="data.pkl", data=W), Record(name="version", data=b"3")]), N, "lies at the top"),
    }  # fmt: skip
    for label, (suffix, content, error, words) in bad.items():
        yield one(f"other_{label}", content, error, words, suffix=suffix)
    unpacked: dict[str, bytes | Link | None] = {"m/data.pkl": W, "m/version": b"3", "m/data/0": SIX}
    yield Case(
        name="unpacked",
        files=unpacked,
        opens="m",
        error="UnsupportedCheckpointError",
        words="unpacked: pack this folder",
    )
    for label, index in {"null": '{"weight_map":null}', "none": '{"metadata":{}}', "list": "[]"}.items():
        yield one(f"index_{label}", index.encode(), C, "weight_map", suffix="safetensors.index.json")
    yield one("json_of_another_kind", b'{"hidden_size": 8}', N, "without weight_map", suffix="json")


ALL = [*work(), *torch_details(), *tars(), *other_formats()]
