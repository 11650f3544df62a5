"""Makes files that lie: pickles put together by opcode, archives any of whose numbers may be false, and cases of them.

Payloads would make the folder `ran` beside the file; nothing here can do more, and a test sees that none does.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

RAN = "ran"
# The classes of errors, by the beginnings of their names.
C, U, N, L = "Corrupt", "Unsafe", "Unsupported", "Limit"
SIX = struct.pack("<6f", 0, 1, 2, 3, 4, 5)

# -- pickles: each function returns the opcodes that push one value


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: float | bool) -> bytes:  # noqa: FBT001
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def value(given: Any) -> bytes:
    """Any plain value; bytes are taken as opcodes."""
    if isinstance(given, bytes):
        return given
    if given is None:
        return b"N"
    if isinstance(given, str):
        return text(given)
    if isinstance(given, tuple):
        return b"(" + b"".join(map(value, given)) + b"t"
    if isinstance(given, list):
        return b"](" + b"".join(map(value, given)) + b"e"
    if isinstance(given, dict):
        return b"}(" + b"".join(value(k) + value(v) for k, v in given.items()) + b"u"
    return number(given)


def call(function: bytes, *args: Any) -> bytes:
    return function + value(args) + b"R"


def payload(module: str = "posix", attribute: str = "mkdir") -> bytes:
    """Opcodes that would run something in an unpickler that does what it is told."""
    return call(name(module, attribute), RAN)


def storage(
    key: Any = "0", kind: str = "FloatStorage", count: Any = 6, device: Any = "cpu", more: tuple[Any, ...] = ()
) -> bytes:
    return value(("storage", name("torch", kind), key, device, count, *more)) + b"Q"


def tensor(
    size: Any = (2, 3),
    stride: Any = None,
    offset: Any = 0,
    *,
    of: bytes = b"",
    hooks: bytes = b"",
    rest: tuple[Any, ...] = (),
) -> bytes:
    """A tensor as torch._utils._rebuild_tensor_v2 would be asked for it."""
    if stride is None:
        steps, step = [], 1
        for n in reversed(size):
            steps.append(step)
            step *= n
        stride = tuple(reversed(steps))
    hooks = hooks or call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), of or storage(), offset, size, stride, False, hooks, *rest)


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return bytes([0x80, protocol]) + body + b"."


def state(**entries: bytes) -> bytes:
    return pickled(value(entries))


W = state(w=tensor())

# -- zip archives


@dataclass(kw_only=True)
class Record:
    """A record of a zip archive. What is given beside name and data is a lie, in the directory or (`local_`) at its place."""

    name: str
    data: bytes = b""
    method: int = 0
    crc: int | None = None
    size: int | None = None
    flags: int = 0
    mode: int = 0
    dos: int = 0
    local_name: str | None = None
    local_crc: int | None = None
    local_flags: int | None = None
    at: int | None = None
    extra: bytes = b""
    packed: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self.packed = self.data
        if self.method == 8:
            engine = zlib.compressobj(9, zlib.DEFLATED, -15)
            self.packed = engine.compress(self.data) + engine.flush()
        self.crc = zlib.crc32(self.data) if self.crc is None else self.crc
        self.size = len(self.data) if self.size is None else self.size

    def local(self) -> bytes:
        raw = (self.name if self.local_name is None else self.local_name).encode()
        crc = self.crc if self.local_crc is None else self.local_crc
        flags = self.flags if self.local_flags is None else self.local_flags
        head = struct.pack(
            "<4s5H3I2H", b"PK\3\4", 20, flags, self.method, 0, 33, crc, len(self.packed), self.size, len(raw), 0
        )
        return head + raw + self.packed

    def central(self, at: int) -> bytes:
        raw = self.name.encode()
        sizes = (self.crc, len(self.packed), self.size)
        facts = (len(raw), len(self.extra), 0, 0, 0, self.mode << 16 | self.dos, at if self.at is None else self.at)
        return (
            struct.pack("<4s6H3I5H2I", b"PK\1\2", 0x314, 20, self.flags, self.method, 0, 33, *sizes, *facts)
            + raw
            + self.extra
        )


def archive(
    records: list[Record],
    *,
    count: int | None = None,
    comment: bytes = b"",
    before: bytes = b"",
    wide: dict[str, int] | None = None,
) -> bytes:
    """A zip archive; `count` and `wide` (the ZIP64 record's numbers) may lie."""
    body, directory = bytearray(before), b""
    for record in records:
        directory += record.central(len(body))
        body += record.local()
    start, end = len(body), b""
    if wide is not None:
        facts = {"count": len(records), "size": len(directory), "offset": start} | wide
        end = struct.pack(
            "<4sQHHII4Q", b"PK\6\6", 44, 45, 45, 0, 0, facts["count"], facts["count"], facts["size"], facts["offset"]
        )
        end += struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    n = len(records) if count is None else count
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, len(directory), start, len(comment)) + comment
    return bytes(body) + directory + end


def records(
    pickle: bytes = W,
    storages: dict[str, bytes] | None = None,
    *more: Record,
    order: bytes = b"little",
    version: bytes = b"3\n",
) -> list[Record]:
    """The records of a torch zip file."""
    out = [Record(name="m/data.pkl", data=pickle), Record(name="m/byteorder", data=order)]
    out += [Record(name=f"m/data/{k}", data=v) for k, v in ({"0": SIX} if storages is None else storages).items()]
    return [*out, Record(name="m/version", data=version), *more]


def torch_zip(pickle: bytes = W, storages: dict[str, bytes] | None = None, *more: Record, **facts: Any) -> bytes:
    return archive(records(pickle, storages, *more, **facts))


def legacy(
    body: bytes = W,
    keys: Any = ("0",),
    blobs: tuple[tuple[int, bytes], ...] = ((6, SIX),),
    *,
    parts: dict[int, bytes] | None = None,
) -> bytes:
    """A file of the format before 1.6; `parts` puts other pickles in place of magic number, protocol, system and keys."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pickles = [
        pickled(number(0x1950A86A20F9469CFC6C)),
        pickled(number(1001)),
        pickled(value(facts)),
        body,
        pickled(value(list(keys))),
    ]
    for place, other in (parts or {}).items():
        pickles[place] = other
    return b"".join(pickles) + b"".join(struct.pack("<q", n) + raw for n, raw in blobs)


# -- other formats


def safetensors(header: Any, data: bytes = SIX, *, length: int | None = None) -> bytes:
    raw = (
        header
        if isinstance(header, bytes)
        else header.encode()
        if isinstance(header, str)
        else json.dumps(header).encode()
    )
    return struct.pack("<Q", (len(raw) if length is None else length) % (1 << 64)) + raw + data


def entry(shape: Any = (2, 3), dtype: Any = "F32", at: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


def npy(header: str, data: bytes = SIX, *, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    raw = header.encode("latin-1")
    count = len(raw) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", count) + raw + data


def npy_header(descr: str = "<f4", shape: str = "(2, 3)") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


def gguf(
    rows: list[tuple[str, tuple[int, ...], int, int]],
    facts: bytes = b"",
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
    data: bytes = SIX + bytes(8),
) -> bytes:
    """A GGUF file of tensors (name, dimensions, type, offset); `facts` are packed key-value pairs."""
    many = counts or (len(rows), 1 if facts else 0)
    head = struct.pack("<4sIQQ", b"GGUF", version, *many) + facts
    for label, shape, kind, offset in rows:
        head += string(label) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return head + bytes(-len(head) % 32) + data


def string(label: str) -> bytes:
    raw = label.encode()
    return struct.pack("<Q", len(raw)) + raw


def fact(key: str, kind: int, raw: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + raw


# -- cases


@dataclass(frozen=True)
class Link:
    """A symbolic link to `target`."""

    target: str


@dataclass(frozen=True)
class HardLink:
    """A second name of the file that is written as `target`."""

    target: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file or several, what must come of opening and reading them, and which published faults are of this kind.

    `error` is the name of the class, "" where it is read. `words` are a pattern of the message, or of the warnings.
    """

    name: str
    files: dict[str, bytes | Link | None]  # None: a folder
    error: str = ""
    words: str = ""
    opens: str = ""
    known: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        """Write the files below `folder`; return what is to be opened."""
        for label, content in self.files.items():
            path = folder / label
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir()
            elif isinstance(content, Link):
                path.symlink_to(content.target)
            elif isinstance(content, HardLink):
                path.hardlink_to(folder / content.target)
            else:
                path.write_bytes(content)
        return folder / (self.opens or next(iter(self.files)))


def one(label: str, content: bytes, error: str, words: str, *known: str, suffix: str = "pt") -> Case:
    """A case of one file. `error` is the short name of a class."""
    return Case(
        name=label,
        files={f"m.{suffix}": content},
        error=f"{error}CheckpointError" * bool(error and error != "Limit") or "LimitExceededError" * bool(error),
        words=words,
        known=known,
    )
