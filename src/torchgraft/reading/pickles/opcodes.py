"""The opcodes of pickle: each takes the machine and the position behind itself, and returns where to go on."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import LimitExceededError, UnsupportedCheckpointError
from torchgraft.reading.pickles.inert import PickledDict, Py2Text, Stub

if TYPE_CHECKING:
    from torchgraft.reading.pickles.machine import Machine

MAX_STACK = 4_000_000
NO_PROTOCOL = 15  # Python is at 5 since 2019; a byte beyond this was no number of one


def _constant(value: Any) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        m.stack.append(value)
        return pos

    return op


def _mark(m: Machine, pos: int) -> int:
    m.marks.append(len(m.stack))
    if len(m.stack) > MAX_STACK or len(m.marks) > MAX_STACK:
        raise LimitExceededError(f"{m.where}: more than {MAX_STACK} values on the pickle's stack")
    return pos


def _tuple(count: int) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        stack = m.stack
        if len(stack) - count < (m.marks[-1] if m.marks else 0):
            raise m.corrupt("an opcode takes more values than there are")
        values = tuple(stack[-count:])
        del stack[-count:]
        stack.append(values)
        return pos

    return op


def _mark_tuple(m: Machine, pos: int) -> int:
    at = m.marks.pop()
    stack = m.stack
    stack[at:] = [tuple(stack[at:])]
    return pos


def _text(width: int) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        data = m.data
        end = pos + width + int.from_bytes(data[pos : pos + width], "little")
        if end > len(data) or pos + width > len(data):
            raise m.cut(f"a text ends at byte {end}, the pickle has {len(data)}")
        m.stack.append(str(data[pos + width : end], "utf-8", "surrogatepass"))
        return end

    return op


def _bytes(width: int, make: Callable[[bytes], Any]) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        count = int.from_bytes(m.take(pos, width), "little")
        m.stack.append(make(m.take(pos + width, count)))
        return pos + width + count

    return op


def _py2(data: bytes) -> str:
    return data.decode("ascii") if data.isascii() else Py2Text(data, "latin-1")


def _int(width: int, *, signed: bool) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        m.stack.append(int.from_bytes(m.take(pos, width), "little", signed=signed))
        return pos + width

    return op


def _long(width: int) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        count = int.from_bytes(m.take(pos, width), "little", signed=width == 4)
        if count < 0:
            raise m.corrupt(f"an integer of {count} bytes")
        if count > 1024:
            raise LimitExceededError(f"{m.where}: an integer of {count} bytes")
        m.stack.append(int.from_bytes(m.take(pos + width, count), "little", signed=True))
        return pos + width + count

    return op


def _line(m: Machine, pos: int) -> tuple[str, int]:
    end = m.data.find(b"\n", pos)
    if end < 0:
        raise m.cut("a line without its end")
    if end - pos > 100_000:
        raise LimitExceededError(f"{m.where}: a line of {end - pos} bytes in the pickle")
    return m.data[pos:end].decode("utf-8", "surrogateescape"), end + 1


def _line_int(m: Machine, pos: int) -> int:
    text, pos = _line(m, pos)
    m.stack.append({"00": False, "01": True}[text] if text in ("00", "01") else int(text.rstrip("L")))
    return pos


def _line_float(m: Machine, pos: int) -> int:
    text, pos = _line(m, pos)
    m.stack.append(float(text))
    return pos


def _line_string(m: Machine, pos: int) -> int:
    text, pos = _line(m, pos)
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) < 2 or raw[:1] not in (b"'", b'"') or raw[:1] != raw[-1:]:
        raise m.corrupt("a text without its quotes")
    m.stack.append(_py2(raw[1:-1].decode("unicode_escape").encode("latin-1")))
    return pos


def _line_unicode(m: Machine, pos: int) -> int:
    end = m.data.index(b"\n", pos)
    m.stack.append(m.data[pos:end].decode("raw-unicode-escape"))
    return end + 1


def _float(m: Machine, pos: int) -> int:
    m.stack.append(struct.unpack(">d", m.take(pos, 8))[0])
    return pos + 8


def _new(make: Callable[[], Any]) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        m.stack.append(make())
        return pos

    return op


def _gather(make: Callable[[Machine, list[Any]], Any]) -> Callable[[Machine, int], int]:
    def op(m: Machine, pos: int) -> int:
        m.push(make(m, m.pop_mark()))
        return pos

    return op


def _dict_of(m: Machine, values: list[Any]) -> PickledDict:
    out = PickledDict()
    m.set_items(out, values)
    return out


def _set_of(m: Machine, values: list[Any]) -> frozenset[Any]:
    return frozenset(m.checked_key(v) for v in values)


def _append(m: Machine, pos: int) -> int:
    value = m.pop()
    m.extend(m.stack[-1], [value])
    return pos


def _appends(m: Machine, pos: int) -> int:
    values = m.pop_mark()
    m.extend(m.stack[-1], values)
    return pos


def _setitem(m: Machine, pos: int) -> int:
    value = m.pop()
    key = m.pop()
    m.set_items(m.stack[-1], [key, value])
    return pos


def _setitems(m: Machine, pos: int) -> int:
    values = m.pop_mark()
    m.set_items(m.stack[-1], values)
    return pos


def _additems(m: Machine, pos: int) -> int:
    values = m.pop_mark()
    target = m.stack[-1]
    if isinstance(target, set):
        target.update(m.checked_key(v) for v in values)
    else:
        m.extend(target, values)
    return pos


def _global(m: Machine, pos: int) -> int:
    module, pos = _line(m, pos)
    name, pos = _line(m, pos)
    m.stack.append(m.table.find(m, module, name))
    return pos


def _stack_global(m: Machine, pos: int) -> int:
    name = m.pop()
    module = m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise m.corrupt("a class whose name is no text")
    m.stack.append(m.table.find(m, module, name))
    return pos


def _reduce(m: Machine, pos: int) -> int:
    args = m.stack.pop()
    m.stack[-1] = m.table.call(m, m.stack[-1], args)
    return pos


def _newobj(m: Machine, pos: int) -> int:
    args = m.pop()
    m.push(m.table.new(m, m.pop(), args))
    return pos


def _newobj_ex(m: Machine, pos: int) -> int:
    words = m.pop()
    args = m.pop()
    made = m.table.new(m, m.pop(), args)
    if isinstance(words, dict) and words and isinstance(made, Stub):
        made.args = (*made.args, words)
    m.push(made)
    return pos


def _inst(m: Machine, pos: int) -> int:
    module, pos = _line(m, pos)
    name, pos = _line(m, pos)
    m.push(m.table.call(m, m.table.find(m, module, name), tuple(m.pop_mark())))
    return pos


def _obj(m: Machine, pos: int) -> int:
    kind, *args = m.pop_mark()
    m.push(m.table.call(m, kind, tuple(args)))
    return pos


def _build(m: Machine, pos: int) -> int:
    state = m.pop()
    m.build(m.stack[-1], state)
    return pos


def _persid(m: Machine, pos: int) -> int:
    del pos
    raise m.corrupt("a persistent id as text; expected a tuple")


def _binpersid(m: Machine, pos: int) -> int:
    if m.persistent is None:
        raise m.corrupt("a persistent id, which this record can't have")
    m.named += 1
    m.stack[-1] = m.persistent(m.stack[-1])
    return pos


def _put(m: Machine, pos: int) -> int:
    text, pos = _line(m, pos)
    number = int(text)
    if not 0 <= number < 1 << 32:
        raise m.corrupt(f"the memo entry {text[:20]}, expected a number of 32 bits")
    m.memo[number] = m.stack[-1]
    return pos


def _memoize(m: Machine, pos: int) -> int:
    if m.forgotten:
        raise m.corrupt("memo entries both with numbers and without")
    m.memo[len(m.memo)] = m.stack[-1]
    return pos


def _get(m: Machine, pos: int) -> int:
    text, pos = _line(m, pos)
    m.stack.append(m.memo[int(text)])
    return pos


def _long_binget(m: Machine, pos: int) -> int:
    m.stack.append(m.memo[int.from_bytes(m.take(pos, 4), "little")])
    return pos + 4


def _proto(m: Machine, pos: int) -> int:
    if m.data[pos] > NO_PROTOCOL:
        raise m.corrupt(f"pickle protocol {m.data[pos]}, which there is none; protocols 0 to 5 are read")
    if m.data[pos] > 5:
        raise UnsupportedCheckpointError(f"{m.where}: pickle protocol {m.data[pos]}; protocols 0 to 5 are read")
    return pos + 1


def _frame(m: Machine, pos: int) -> int:
    count = int.from_bytes(m.take(pos, 8), "little")
    if pos + 8 + count > len(m.data):
        raise m.cut(f"a frame of {count} bytes, {len(m.data) - pos - 8} are left")
    return pos + 8


def _pop_op(m: Machine, pos: int) -> int:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()
    return pos


def _pop_mark_op(m: Machine, pos: int) -> int:
    m.pop_mark()
    return pos


def _dup(m: Machine, pos: int) -> int:
    m.stack.append(m.stack[-1])
    return pos


def _extension(m: Machine, pos: int) -> int:
    del pos
    raise m.unsafe("a class by its number in the copyreg extension registry, which only the author's process knows")


def _buffer(m: Machine, pos: int) -> int:
    del pos
    raise m.corrupt("an out-of-band buffer, which no file can hold")


def _unknown(m: Machine, pos: int) -> int:
    raise m.corrupt(f"unknown opcode 0x{m.data[pos - 1]:02x}")


OPCODES: list[Callable[[Machine, int], int]] = [_unknown] * 256
for _codes, _function in {
    b"(": _mark, b")": _constant(()), b"N": _constant(None), b"\x88": _constant(True), b"\x89": _constant(False),
    b"\x85": _tuple(1), b"\x86": _tuple(2), b"\x87": _tuple(3), b"t": _mark_tuple,
    b"X": _text(4), b"\x8c": _text(1), b"\x8d": _text(8), b"V": _line_unicode, b"S": _line_string,
    b"U": _bytes(1, _py2), b"T": _bytes(4, _py2),
    b"C": _bytes(1, bytes), b"B": _bytes(4, bytes), b"\x8e": _bytes(8, bytes), b"\x96": _bytes(8, bytes),
    b"M": _int(2, signed=False), b"J": _int(4, signed=True), b"\x8a": _long(1), b"\x8b": _long(4),
    b"I": _line_int, b"L": _line_int, b"F": _line_float, b"G": _float,
    b"}": _new(PickledDict), b"]": _new(list), b"\x8f": _new(set),
    b"d": _gather(_dict_of), b"l": _gather(lambda _, v: v), b"\x91": _gather(_set_of),
    b"a": _append, b"e": _appends, b"s": _setitem, b"u": _setitems, b"\x90": _additems,
    b"c": _global, b"\x93": _stack_global, b"R": _reduce, b"\x81": _newobj, b"\x92": _newobj_ex,
    b"i": _inst, b"o": _obj, b"b": _build, b"P": _persid, b"Q": _binpersid,
    b"p": _put, b"\x94": _memoize, b"g": _get, b"j": _long_binget, b"\x80": _proto, b"\x95": _frame,
    b"0": _pop_op, b"1": _pop_mark_op, b"2": _dup, b"\x82\x83\x84": _extension, b"\x97\x98": _buffer,
}.items():  # fmt: skip
    for _code in _codes:
        OPCODES[_code] = _function
