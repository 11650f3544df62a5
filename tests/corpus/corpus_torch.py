"""Torch files that lie, are broken, or would run something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corpus_tools import (
    SIX,
    C,
    Case,
    L,
    N,
    Record,
    U,
    W,
    archive,
    call,
    legacy,
    name,
    number,
    one,
    payload,
    pickled,
    records,
    safetensors,
    state,
    storage,
    tensor,
    text,
    torch_zip,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = torch_zip()


def swapped(**lies) -> bytes:
    """The good file with other facts of the record of its storage."""
    return archive([Record(name="m/data/0", data=SIX, **lies) if r.name == "m/data/0" else r for r in records()])


def containers() -> Iterator[Case]:
    yield one("empty", b"", C, "empty file")
    yield one("zeros", bytes(4096), C, "not a checkpoint")
    yield one("cut_half", GOOD[: len(GOOD) // 2], C, "truncated")
    yield one("cut_last", GOOD[:-1], C, "truncated")
    yield one("web_page", b"<!DOCTYPE html><html>404</html>", C, "HTML")
    yield one("lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", C, "git lfs pull")
    yield one("gzip", b"\x1f\x8b" + bytes(30), N, "gzip")
    yield one("crc_of_storage", swapped(crc=1), C, "data/0: wrong CRC", "CVE-2025-10156", "pytorch#28858")
    yield one(
        "crc_not_taken", archive([Record(name=r.name, data=r.data, crc=0) for r in records()]), "", "CRC", "burn#5712"
    )
    yield one("storage_missing", torch_zip(W, {}), C, "data/0 is missing")
    yield one("storage_short", torch_zip(W, {"0": SIX[:20]}), C, "has 20 bytes, expected 24", "CVE-2026-24747")
    yield one("storage_long", torch_zip(W, {"0": SIX + bytes(8)}), C, "has 32 bytes, expected 24")
    yield one("version_999", torch_zip(version=b"999\n"), N, "999")
    yield one("byteorder_junk", torch_zip(order=b"middle"), C, "byteorder")
    yield one(
        "duplicate_pickle",
        archive([*records(), Record(name="m/data.pkl", data=pickled(payload()))]),
        C,
        "duplicate",
        "CVE-2025-1944",
    )
    yield one("case_folded", torch_zip(W, None, Record(name="m/DATA.PKL", data=pickled(payload()))), C, "duplicate")
    yield one("two_roots", torch_zip(W, None, Record(name="x/data.pkl", data=pickled(payload()))), C, "root")
    yield one("traversal", torch_zip(W, None, Record(name="../../evil")), U, r"\.\./")
    yield one("absolute_record", torch_zip(W, None, Record(name="/etc/evil")), U, "absolute")
    yield one(
        "link_record", torch_zip(W, None, Record(name="m/data/1", data=b"/etc/passwd", mode=0o120777)), U, "symlink"
    )
    yield one("folder_with_content", swapped(dos=0x10), C, "data/0 holds 24 bytes, and is marked as a folder")
    yield one("local_name", swapped(local_name="m/data/9"), C, "local header", "CVE-2025-1944")
    yield one("local_crc", swapped(local_crc=7), C, r"local header of m/data/0: its CRC is 7, in the directory \d+$")
    yield one("encrypted", swapped(flags=1), C, "encrypted", "CVE-2025-1945")
    yield one("encrypted_here_only", swapped(local_flags=1), C, "local header|encrypted", "CVE-2025-1945")
    yield one(
        "overlap",
        archive([*records(), Record(name="m/data/1", data=SIX, at=30)]),
        C,
        "overlap|local header",
        "CVE-2024-0450",
    )
    yield one("bomb", archive([*records(W, {}), Record(name="m/data/0", data=bytes(70 << 20), method=8)]), L, "ratio")
    yield one("zip64_disagrees", archive(records(), wide={"offset": 7}), C, "ZIP64", "CVE-2025-8291")
    yield one("count_lies", archive(records(), count=2), C, "entries")
    yield one("method_99", swapped(method=99), C, "method 99")
    yield one("prefix", archive(records(), before=b"#!/bin/sh\n"), C, "before the archive", "fickling-polyglots")
    yield one("tail", GOOD + b"tail", C, "after the archive")
    yield one("two_formats", legacy(pickled(payload())) + GOOD, C, "two formats", "picklescan-magic-bypass")
    yield one("end_in_comment", archive(records(), comment=archive(records())[-22:]), C, "comment")
    yield one("plain_zip", archive([Record(name="word/document.xml", data=b"<x/>")]), N, "data.pkl")
    yield one(
        "script_constants",
        torch_zip(W, None, Record(name="m/constants.pkl", data=pickled(payload()))),
        U,
        "posix.mkdir",
        "pytorch#179581",
    )
    yield one("stray_record", torch_zip(W, None, Record(name="m/notes.txt", data=b"hi")), "", "notes.txt")
    yield one("stray_storage", torch_zip(W, {"0": SIX, "7": SIX}), "", "data/7")
    yield one("named_safetensors", b"", C, "empty", suffix="safetensors")
    yield one("pickle_named_safetensors", torch_zip(pickled(payload())), C, "named .safetensors", suffix="safetensors")
    yield one("polyglot_safetensors", safetensors({}) + GOOD, C, "two formats", suffix="safetensors")


CALLS = {
    "posix.mkdir": ("CVE-2025-32434",), "pkgutil.resolve_name": ("GHSA-picklescan-resolve_name",), "builtins.eval": (), "os.system": (),
    "torch.serialization.load": (), "torch.hub.load": (), "torch.jit.load": ("pytorch#179581",), "runpy._run_code": (), "importlib.import_module": (),
    "torch.storage._load_from_bytes": (), "torch._utils._import_dotted_name": (), "operator.methodcaller": (), "pip.main": ("CVE-2025-1716",),
    "subprocess.Popen": (), "ctypes.CDLL": (), "socket.create_connection": (), "asyncio.unix_events._UnixSubprocessTransport._start": ("CVE-2025-10157",),
    "uuid._get_command_stdout": ("CVE-2026-56315",), "imaplib.IMAP4_stream": ("CVE-2026-56315",), "_aix_support._read_cmd_output": ("CVE-2026-56315",),
    "_osx_support._read_output": ("CVE-2026-56315",), "logging.FileHandler": ("CVE-2026-56304",), "pydoc.locate": ("CVE-2026-22608",),
    "numpy.load": (), "pickle.loads": (), "timeit.timeit": (), "torch.utils.bottleneck.__main__.run_cprofile": (), "cProfile.runctx": (),
    "idlelib.run.Executive.runcode": (), "doctest.debug_script": (), "functools.partial": (), "builtins.getattr": (),
}  # fmt: skip


def pickles() -> Iterator[Case]:
    for full, known in CALLS.items():
        module, _, attribute = full.rpartition(".")
        yield one(f"calls_{full}", torch_zip(pickled(payload(module, attribute))), U, attribute, *known)
    mkdir = name("posix", "mkdir")
    bodies = {
        "stack_global": text("posix") + text("mkdir") + b"\x93" + value(("ran",)) + b"R",
        "inst": b"(" + text("ran") + b"iposix\nmkdir\n",
        "obj": b"(" + mkdir + text("ran") + b"o",
        "newobj": mkdir + value(("ran",)) + b"\x81",
        "newobj_ex": mkdir + value(("ran",)) + b"}\x92",
        "memo": text("posix") + b"q\x01" + text("mkdir") + b"q\x02" + b"00h\x01h\x02\x93" + value(("ran",)) + b"R",
        "popped": payload() + b"0" + value({"w": tensor()}),
        "last": value({**{f"k{i}": tensor() for i in range(9)}, "x": payload()}),
        "as_key": b"}" + payload() + tensor() + b"s",
        "in_hooks": value({"w": tensor(hooks=payload())}),
        "in_size": value({"w": tensor(payload(), (3, 1))}),
        "in_storage": value(
            {"w": tensor(of=value(("storage", name("torch", "FloatStorage"), payload(), "cpu", 6)) + b"Q")}
        ),
        "live_hooks": value(
            {"w": tensor(hooks=call(name("collections", "OrderedDict")) + b"(" + number(0) + mkdir + b"u")}
        ),
        "before_a_break": payload() + b"\xff",
        "setstate": call(name("functools", "partial"), name("collections", "OrderedDict"))
        + value((mkdir, ("ran",), {}, None))
        + b"b",
    }
    for label, body in bodies.items():
        yield one(f"payload_{label}", torch_zip(pickled(body, 4)), U, "posix|hook|partial")
    yield one("payload_broken_file", torch_zip(b"\x80\2" + payload() + b"\xff\xff"), U, "posix.mkdir", "nullifAI")
    yield one("second_pickle", torch_zip(W + pickled(payload())), C, "after STOP")
    yield one(
        "class_in_state",
        torch_zip(
            state(
                w=call(
                    name("torch._utils", "_rebuild_parameter_with_state"),
                    tensor(),
                    True,
                    b"}",
                    {"__class__": name("torch", "Tensor")},
                )
            )
        ),
        U,
        "__class__",
        "pytorch#195607",
    )
    yield one("object_array", torch_zip(pickled(value({"w": _object_array()}))), U, "object", "CVE-2019-6446")
    yield one(
        "module_id",
        torch_zip(pickled(value(("module", name("torch.nn", "Linear"), "x.py", "source")) + b"Q")),
        U,
        "persistent id",
    )
    yield one("pid_number", torch_zip(pickled(number(3) + b"Q")), C, "persistent id")
    yield one("key_traversal", torch_zip(state(w=tensor(of=storage("../../x")))), C, "storage key")
    yield one(
        "unknown_class", torch_zip(pickled(name("my.models", "Net") + b")\x81" + value({"w": tensor()}) + b"b")), "", ""
    )
    yield one("text_pickle", b"cposix\nmkdir\n(S'ran'\ntR.", U, "posix.mkdir")
    yield one("text_pickle_harmless", b"(dp0\nVa\np1\nI1\ns.", N, "pickle")


def _object_array() -> bytes:
    array = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), (0,), b"C\1b")
    kind = call(name("numpy", "dtype"), "O8", False, True) + value((3, "|", None, None, None, -1, -1, 63)) + b"b"
    return array + value((1, (1,), kind, False, [payload()])) + b"b"


def broken() -> Iterator[Case]:
    bad = {
        "no_stop": (b"\x80\2}", C, ""), "empty_pickle": (b"", C, "data.pkl"), "long_text": (b"\x80\2X\xff\xff\xff\xff12345", C, "truncated"),
        "long_text_8": (b"\x80\4\x8d" + bytes([255] * 7) + b"\x0f12", C, "truncated"), "frame": (b"\x80\4\x95" + bytes([255] * 8), C, "truncated"),
        "opcode": (b"\x80\2}\xffs.", C, "opcode"), "underflow": (b"\x80\2ss.", C, ""), "memo": (b"\x80\2h\7.", C, "memo entry 7 was never set"), "digits": (b"\x80\2I1e5\n.", C, "a number or a text that can't be read"),
        "escape": (b"\x80\2V\\uzzzz\n.", C, "a number or a text that can't be read"), "odd_items": (b"\x80\2}(K\1u.", C, ""),
        "unhashable": (b"\x80\2}]K\1s.", C, "dictionary key"), "protocol": (b"\x80\7}.", N, "protocol"), "negative_integer": (b"\x80\2\x8b\xff\xff\xff\xff.", C, ""),
        "long_integer": (b"\x80\2\x8b\xff\xff\xff\x7f.", L, "integer"), "extension": (pickled(b"\x82\x01"), U, "copyreg"), "buffer": (b"\x80\5\x97.", C, "buffer"),
        "item_of_tensor": (pickled(tensor() + b"K\1K\2s"), C, "", "CVE-2026-24747"), "deep_tuples": (pickled(b")" + b"\x85" * 200_000), L, "depth"),
        "deep_key": (pickled(b"})" + b"\x85" * 50_000 + b"K\1s"), L, "depth"), "deep_dicts": (pickled(b"}" + (text("a") + b"}") * 2000 + tensor() + b"s" * 1), C, ""),
        "deep_lists": (pickled(b"]" * 2000 + tensor() + b"a" * 2000), L, "depth"), "cycle": (pickled(b"}q\0(" + text("w") + tensor() + text("self") + b"h\0u"), C, "cycle"),
        "laughs": (pickled(_laughs(60)), L, "reused without end"), "bytearray": (pickled(call(name("builtins", "bytearray"), 1 << 33)), L, "bytearray"),
        "float_tensor": (pickled(call(name("torch", "FloatTensor"), 1 << 31)), L, ""), "duplicate": (pickled(b"}(" + (text("w") + tensor()) * 2 + b"u"), C, "duplicate"),
        "collision": (pickled(b"}(" + number(1) + tensor() + text("1") + tensor() + b"u"), C, "1"), "tensor_as_name": (pickled(b"}" + tensor() + tensor() + b"s"), C, "name of one"),
        "dotted_collision": (state(**{"a.b": tensor(), "a": value({"b": tensor(), "c": tensor()})}), C, "a.b"), "number": (pickled(number(42)), N, "no state dict"),
        "bare_tensor": (pickled(tensor()), N, "no state dict"), "no_tensors": (pickled(value({"lr": 0.1})), N, "no tensors"),
    }  # fmt: skip
    for label, (content, error, words, *known) in bad.items():
        yield one(f"pickle_{label}", torch_zip(content), error, words, *known)


def _laughs(levels: int) -> bytes:
    """A list that holds the list before it twice, and so on."""
    out = value([tensor()]) + b"q\0" + b"0"
    for i in range(levels):
        out += b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) + b"0"
    return out + b"}" + text("x") + b"h" + bytes([levels]) + b"s"


def geometry() -> Iterator[Case]:
    bad = {
        "offset": (tensor(offset=100), C, "out of bounds"), "negative_offset": (tensor(offset=-1), C, "offset"),
        "negative_stride": (tensor(stride=(-3, 1)), C, "stride"), "wild_stride": (tensor(stride=(1 << 62, 1)), C, "out of bounds"),
        "huge": (tensor((1 << 70,)), C, "w"), "expands": (tensor((1 << 40,), (0,)), L, "repeats"), "dimensions": (tensor((1,) * 70, (1,) * 70), L, "70 dimensions"),
        "lengths": (tensor((2, 3), (1,)), C, "two tuples of the same length"), "offset_text": (tensor(offset="0"), C, "w has the offset '0', expected a whole"), "floats": (tensor((2.0, 3.0), (3, 1)), C, "w"), "negative_count": (tensor(of=storage(count=-6)), C, "-6"),
        "huge_count": (tensor(of=storage(count=1 << 62)), C, "data/0"), "no_count": (tensor(of=storage(count=None)), C, "persistent id with None as the number of elements"),
        "key_of_halves": (tensor(of=storage(1.5)), C, "persistent id with 1.5 as the storage key"), "bool": (tensor((4,), of=storage("1", "BoolStorage", 4)), C, "bool"),
        "meta": (call(name("torch._utils", "_rebuild_meta_tensor_no_storage"), name("torch", "float32"), (2,), (1,), False), N, "meta"),
        "sparse": (call(name("torch._utils", "_rebuild_sparse_tensor"), 1, 2), N, "sparse", "pytorch#184750", "CVE-2025-62164"),
        "wrapper": (call(name("torch._utils", "_rebuild_wrapper_subclass"), 1), N, "w"),
        "quantised": (call(name("torch._utils", "_rebuild_qtensor"), storage("0", "QInt8Storage", 24), 0, (9, 9), (99, 1), (name("torch", "per_tensor_affine"), 0.1, 0), False, b"}"), C, "out of bounds", "GHSA-jg6j-8w4h-2pg2", "pytorch#184652"),
    }  # fmt: skip
    for label, (content, error, words, *known) in bad.items():
        yield one(f"geometry_{label}", torch_zip(state(w=content), {"0": SIX, "1": b"\0\1\2\3"}), error, words, *known)
    two = state(a=tensor(), b=tensor((3,), of=storage(count=3)))
    yield one("geometry_two_sizes", torch_zip(two), C, "data/0")
    yield one(
        "geometry_two_types",
        torch_zip(state(a=tensor(), b=tensor((12,), of=storage(kind="HalfStorage", count=12)))),
        C,
        "data/0",
    )
    spans = state(w=tensor((20,), of=storage(count=20)))
    yield one("geometry_spans_records", torch_zip(spans, {"0": SIX, "1": bytes(64)}), C, "data/0", "CVE-2026-24747")


def legacies() -> Iterator[Case]:
    view = state(w=tensor((6,), of=storage(more=(("v", 4, 6),))))
    plain = state(w=tensor(of=storage(more=(None,))))
    bad = {
        "magic": (legacy(plain, parts={0: pickled(payload())}), U, "posix.mkdir", "picklescan-magic-bypass"), "protocol": (legacy(plain, parts={1: pickled(payload())}), U, "posix.mkdir"),
        "system": (legacy(plain, parts={2: pickled(payload())}), U, "posix.mkdir"), "keys": (legacy(plain, parts={4: pickled(payload())}), U, "posix.mkdir"),
        "objects": (legacy(pickled(payload())), U, "posix.mkdir", "CVE-2025-32434"), "cut_magic": (legacy(plain)[:10], C, "truncated"), "cut_storage": (legacy(plain)[:-9], C, "truncated"),
        "no_storage": (legacy(plain)[:-32], C, "truncated"), "unlisted": (legacy(plain, keys=()), C, "storage"), "unknown_key": (legacy(plain, ("0", "7"), ((6, SIX), (6, SIX))), C, "storage"),
        "bomb": (legacy(state(w=tensor((1 << 33,), of=storage(count=1 << 33, more=(None,)))), blobs=((1 << 33, SIX),)), C, "size"), "view": (legacy(view), C, "view"),
        "tail": (legacy(plain) + b"tail", C, "after"), "protocol_7": (legacy(plain, parts={1: pickled(number(7))}), N, "protocol 7 of files before torch 1.6; 1001 alone"), "nul_key": (legacy(state(w=tensor(of=storage("a\0b", more=(None,)))), ("a\0b",)), C, "NUL"), "plain": (pickled(value({"a": 1})), N, "pickle"),
    }  # fmt: skip
    for label, (content, error, words, *known) in bad.items():
        yield one(f"legacy_{label}", content, error, words, *known, suffix="pth")
    yield one("legacy_read", legacy(plain), "", "", suffix="pth")


def hostile_names() -> Iterator[Case]:
    for label, key in HOSTILE.items():
        yield one(f"name_{label}", torch_zip(state(**{key: tensor()})), "", "")
        yield one(f"name_{label}_broken", torch_zip(state(**{key: tensor(offset=9)})), C, "out of bounds")


HOSTILE = {
    "control": "a\0\7\x1b[2J\x1b]0;owned\7b", "html": "<img src=x onerror=alert(1)>&amp;\"'", "rtl": "\u202egnp.exe\u2066x", "long": "w" * (1 << 20),
    "lines": "a\nb\r\nc\u2028d", "dots": "../../etc/passwd", "surrogate": "a\ud800", "dunder": "__class__.__init__", "empty": "", "astral": "🦆" * 400,
}  # fmt: skip
ALL = [*containers(), *pickles(), *broken(), *geometry(), *legacies(), *hostile_names()]
__all__ = ["ALL", "GOOD", "HOSTILE"]
