"""Mutations of protobuf, msgpack and GGUF: their records, with the lengths around them made right again."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import msgpack
from bytes_level import HOSTILE, mutate, number

if TYPE_CHECKING:
    from random import Random

# Which fields of which message hold messages (ModelProto, GraphProto, NodeProto ..., as in onnx.proto).
NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 11: "graph"},
    "tensor": {13: "entry"},
    "sparse": {1: "tensor"},
}


def varint(value: int) -> bytes:
    out = bytearray()
    value %= 1 << 64
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def parse(data: bytes, kind: str) -> list[list[Any]]:
    """[field, wire type, value]: the value of a nested message is such a list itself."""
    out, at = [], 0
    while at < len(data):
        key, at = _number(data, at)
        if key & 7 == 0:
            value, at = _number(data, at)
            out.append([key >> 3, 0, value])
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        if size is None:
            size, at = _number(data, at)
        raw = data[at : at + size]
        at += size
        inner = NESTED.get(kind, {}).get(key >> 3)
        out.append([key >> 3, key & 7, [inner, parse(raw, inner)] if inner else raw])
    return out


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def encode(fields: list[list[Any]]) -> bytes:
    out = bytearray()
    for field, wire, value in fields:
        out += varint(field << 3 | wire)
        if wire == 0:
            out += varint(value if isinstance(value, int) else 0)
            continue
        raw = encode(value[1]) if isinstance(value, list) else value if isinstance(value, bytes) else b""
        out += (varint(len(raw)) if wire == 2 else b"") + raw
    return bytes(out)


def mutate_protobuf(content: bytes, dice: Random) -> bytes:
    """Change, double, drop or move a field of any message."""
    if dice.random() < 0.2:
        return mutate(content, dice)
    top = parse(content, "model")
    for _ in range(dice.choice((1, 1, 2, 3))):
        node = top
        while True:
            if not node:
                node.append([dice.randrange(30), 0, 1])
            at = dice.randrange(len(node))
            if not isinstance(node[at][2], list) or dice.random() < 0.2:
                break
            node = node[at][2][1]
        _field(node, at, dice)
    return encode(top)[: 1 << 19]


def _field(node: list[list[Any]], at: int, dice: Random) -> None:
    field, wire, value = node[at]
    kind = dice.randrange(7)
    if kind == 0:
        del node[at]
    elif kind == 1:
        node.insert(at, [field, wire, value])
    elif kind == 2:
        node[at] = [dice.randrange(27), wire, value]
    elif kind == 3:
        node[at] = [field, dice.randrange(8), value]
    elif isinstance(value, int):
        node[at] = [field, wire, number(dice)]
    elif isinstance(value, bytes):
        text = dice.choice(HOSTILE).encode("utf-8", "surrogatepass")
        node[at] = [field, wire, dice.choice((text, mutate(value or b"\0", dice), value + bytes(4), value[:-1]))]
    elif kind == 4:
        node[at] = [field, wire, [value[0], [*value[1], *value[1]]]]
    else:  # a graph within itself, so that nesting grows
        attribute = ["attribute", [[6, 2, value]]]
        node.append([field, wire, [value[0], [[1, 2, ["node", [[5, 2, attribute]]]]]]])


def mutate_msgpack(content: bytes, dice: Random) -> bytes:
    """Change a value or key of the tree, an array's facts, or the bytes."""
    if dice.random() < 0.3:
        return mutate(content, dice)
    tree = msgpack.unpackb(content, strict_map_key=False)
    for _ in range(dice.choice((1, 1, 2, 3))):
        node = tree
        while True:
            key = dice.choice(list(node))
            if not isinstance(node[key], dict) or not node[key] or dice.random() < 0.2:
                break
            node = node[key]
        _entry(node, key, dice)
    try:
        return msgpack.packb(tree, use_bin_type=True, unicode_errors="surrogatepass")
    except (ValueError, OverflowError):
        return mutate(content, dice)


def _entry(node: dict[Any, Any], key: Any, dice: Random) -> None:
    kind = dice.randrange(5)
    if kind == 0 and len(node) > 1:
        del node[key]
    elif kind == 1:
        node[dice.choice((*HOSTILE, 3, "params", "batch_stats", "opt_state", "__msgpack_chunked_array__", "shape"))] = (
            node[key]
        )
    elif isinstance(node[key], msgpack.ExtType):
        node[key] = _array(node[key], dice)
    else:
        node[key] = dice.choice(
            (None, 1, 2.5, b"abc", [], [1, [2]], {}, "x", node[key], msgpack.ExtType(2, b"\x92\1\2"))
        )


def _array(value: msgpack.ExtType, dice: Random) -> msgpack.ExtType:
    try:
        facts = msgpack.unpackb(value.data)
        data = facts[2] if isinstance(facts[2], bytes) and facts[2] else b"\0"
    except (ValueError, LookupError, TypeError):  # a mutant of a mutant
        return value
    at = dice.randrange(4)
    if at == 0:
        facts[0] = dice.choice(([], [0], [2, 3], [-1], [1] * 70, [number(dice) % (1 << 63)], "x", [1.5], None, [[1]]))
    elif at == 1:
        facts[1] = dice.choice(("float32", "bfloat16", "int4", "object", "", "V2", b"float32", 3, "f" * 500, "bool"))
    elif at == 2:
        facts[2] = dice.choice((b"", bytes(8), "text", None, mutate(data, dice)))
    else:
        facts = dice.choice((facts[:2], [*facts, 1], {}, 7))
    return msgpack.ExtType(dice.choice((1, 1, 1, 3, 2, 9)), msgpack.packb(facts, use_bin_type=True))


def text_of(dice: Random, plain: str) -> bytes:
    raw = dice.choice((plain,) * 12 + HOSTILE).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _fact(dice: Random, name: str) -> bytes:
    """A key and its value, right or odd."""
    kind = dice.choice((0, 4, 7, 8, 9, 9, 11, 12, dice.randrange(20)))
    key = text_of(dice, dice.choice((name, "general.alignment")))
    if kind == 8:
        return key + struct.pack("<I", kind) + text_of(dice, "value")
    if kind == 9:
        inner, count = dice.choice((0, 8, 9, 5)), dice.choice((0, 2, 3, number(dice) % (1 << 64)))
        return key + struct.pack("<IIQ", kind, inner, count) + dice.choice((bytes(16), text_of(dice, "a") * 2))
    return (
        key
        + struct.pack("<I", kind)
        + struct.pack("<Q", dice.choice((0, 1, 32, number(dice) % (1 << 64))))[: dice.choice((1, 4, 8))]
    )


def mutate_gguf(content: bytes, dice: Random) -> bytes:
    """Another file of the format, each of its facts right or odd, or the bytes of the given one."""
    if dice.random() < 0.4:
        return mutate(content, dice)
    facts, rows, at = [_fact(dice, f"k{i}") for i in range(dice.randrange(4))], b"", 0
    count = dice.randint(1, 3)
    for i in range(count):
        shape = [dice.randint(1, 4) for _ in range(dice.randint(0, 3))]
        if dice.random() < 0.2:
            shape.append(number(dice) % (1 << 64))
        kind = dice.choice((0, 0, 1, 24, 26, 28, 30, 2, 8, dice.randrange(60)))
        offset = dice.choice((at, at, at, 0, number(dice) % (1 << 64)))
        rows += text_of(dice, f"t{i}") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        at += 512
    totals = [dice.choice((n, n, n, n, number(dice) % (1 << 64))) for n in (count, len(facts))]
    head = struct.pack("<4sIQQ", b"GGUF", dice.choice((2, 3, 3, 3, 1, 4)), *totals) + b"".join(facts) + rows
    return head + bytes(-len(head) % 32) + bytes(dice.choice((at, at, 10)))
