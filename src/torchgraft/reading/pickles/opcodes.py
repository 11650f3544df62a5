"""The opcodes of pickle, and what each does to the machine's stack and memo.

An opcode gets the machine and the position behind itself. It returns the position behind its operand, or None where it has
none. Source of their meaning: the comments of Lib/pickletools.py in CPython.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import LimitExceededError, UnsupportedCheckpointError
from torchgraft.reading.pickles.inert import PickledDict, Py2Text, Stub

if TYPE_CHECKING:
    from torchgraft.reading.pickles.machine import Machine

Opcode = Callable[["Machine", int], int | None]

MAX_STACK = 4_000_000
MAX_LINE = 100_000
MAX_INTEGER = 1024
# What these take in memory, in bytes, without what is in them.
_EMPTY_TUPLE, _EMPTY_LIST, _EMPTY_DICT, _EMPTY_SET = 64, 72, 96, 232
NO_PROTOCOL = 15  # Python is at 5 since 2019; a byte beyond this was no number of one


# -- numbers, texts and bytes


def _constant(value: Any) -> Opcode:
    return lambda m, _: m.stack.append(value)


def _int(width: int, *, signed: bool) -> Opcode:
    def op(m: Machine, pos: int) -> int:
        m.stack.append(int.from_bytes(m.take(pos, width), "little", signed=signed))
        return pos + width

    return op


def _long(width: int) -> Opcode:
    def op(m: Machine, pos: int) -> int:
        count = int.from_bytes(m.take(pos, width), "little", signed=width == 4)
        if count < 0:
            raise m.corrupt(f"an integer of {count} bytes")
        if count > MAX_INTEGER:
            raise LimitExceededError(f"{m.where}: an integer of {count} bytes")
        m.stack.append(int.from_bytes(m.take(pos + width, count), "little", signed=True))
        return pos + width + count

    return op


def _float(m: Machine, pos: int) -> int:
    m.stack.append(struct.unpack(">d", m.take(pos, 8))[0])
    return pos + 8


def _text(width: int) -> Opcode:
    def op(m: Machine, pos: int) -> int:
        data = m.data
        end = pos + width + int.from_bytes(data[pos : pos + width], "little")
        if end > len(data) or pos + width > len(data):
            raise m.truncated(f"a text ends at byte {end}, the pickle has {len(data)}")
        m.stack.append(str(data[pos + width : end], "utf-8", "surrogatepass"))
        return end

    return op


def _bytes(width: int, make: Callable[[bytes], Any]) -> Opcode:
    def op(m: Machine, pos: int) -> int:
        count = int.from_bytes(m.take(pos, width), "little")
        m.stack.append(make(m.take(pos + width, count)))
        return pos + width + count

    return op


def _py2(data: bytes) -> str:
    return data.decode("ascii") if data.isascii() else Py2Text(data, "latin-1")


def _line(m: Machine, pos: int) -> tuple[str, int]:
    """Return the operand of an opcode of protocol 0, and the position behind its end of line."""
    end = m.data.find(b"\n", pos)
    if end < 0:
        raise m.truncated("a line without its end")
    if end - pos > MAX_LINE:
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


# -- containers


def _new(make: Callable[[], Any], size: int) -> Opcode:
    def op(m: Machine, _: int) -> None:
        m.spend(size)
        m.stack.append(make())

    return op


def _mark(m: Machine, _: int) -> None:
    m.marks.append(len(m.stack))
    if len(m.stack) > MAX_STACK or len(m.marks) > MAX_STACK:
        raise LimitExceededError(f"{m.where}: more than {MAX_STACK} values on the pickle's stack")


def _tuple(count: int) -> Opcode:
    def op(m: Machine, _: int) -> None:
        m.spend(_EMPTY_TUPLE)
        stack = m.stack
        if len(stack) - count < (m.marks[-1] if m.marks else 0):
            raise m.corrupt("an opcode takes more values than there are")
        stack[-count:] = [tuple(stack[-count:])]

    return op


def _mark_tuple(m: Machine, _: int) -> None:
    at = m.marks.pop()
    m.stack[at:] = [tuple(m.stack[at:])]


def _list(m: Machine, _: int) -> None:
    m.spend(_EMPTY_LIST)
    m.stack.append(m.pop_mark())


def _dict(m: Machine, _: int) -> None:
    m.spend(_EMPTY_DICT)
    values, made = m.pop_mark(), PickledDict()
    m.set_items(made, values)
    m.stack.append(made)


def _frozenset(m: Machine, _: int) -> None:
    m.spend(_EMPTY_SET)
    m.stack.append(frozenset(m.checked_key(v) for v in m.pop_mark()))


def _append(m: Machine, _: int) -> None:
    value = m.pop()
    m.extend(m.stack[-1], [value])


def _appends(m: Machine, _: int) -> None:
    values = m.pop_mark()
    m.extend(m.stack[-1], values)


def _setitem(m: Machine, _: int) -> None:
    value, key = m.pop(), m.pop()
    m.set_items(m.stack[-1], [key, value])


def _setitems(m: Machine, _: int) -> None:
    values = m.pop_mark()
    m.set_items(m.stack[-1], values)


def _additems(m: Machine, _: int) -> None:
    values = m.pop_mark()
    target = m.stack[-1]
    if isinstance(target, set):
        target.update(m.checked_key(v) for v in values)
    else:
        m.extend(target, values)


# -- classes, calls and states: `globals` says what becomes of them, and nothing is imported or called


def _global(m: Machine, pos: int) -> int:
    module, pos = _line(m, pos)
    name, pos = _line(m, pos)
    m.stack.append(m.globals.find(module, name))
    return pos


def _stack_global(m: Machine, _: int) -> None:
    name, module = m.pop(), m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise m.corrupt("a class whose name is no text")
    m.stack.append(m.globals.find(module, name))


def _reduce(m: Machine, _: int) -> None:
    args = m.stack.pop()
    m.stack[-1] = m.globals.call(m, m.stack[-1], args)


def _newobj(m: Machine, _: int) -> None:
    args, kind = m.pop(), m.pop()
    m.stack.append(m.globals.new(m, kind, args))


def _newobj_ex(m: Machine, _: int) -> None:
    keywords, args, kind = m.pop(), m.pop(), m.pop()
    made = m.globals.new(m, kind, args)
    if isinstance(keywords, dict) and keywords and isinstance(made, Stub):
        made.args = (*made.args, keywords)
    m.stack.append(made)


def _inst(m: Machine, pos: int) -> int:
    pos = _global(m, pos)
    kind = m.stack.pop()
    m.stack.append(m.globals.call(m, kind, tuple(m.pop_mark())))
    return pos


def _obj(m: Machine, _: int) -> None:
    kind, *args = m.pop_mark()
    m.stack.append(m.globals.call(m, kind, tuple(args)))


def _build(m: Machine, _: int) -> None:
    state = m.pop()
    m.build(m.stack[-1], state)


def _persid(m: Machine, _: int) -> None:
    raise m.corrupt("a persistent id as text; expected a tuple")


def _binpersid(m: Machine, _: int) -> None:
    if m.persistent is None:
        raise m.corrupt("a persistent id, which this record can't have")
    m.allowance += 1
    m.stack[-1] = m.persistent(m.stack[-1])


def _extension(m: Machine, _: int) -> None:
    raise m.unsafe("a class by its number in the copyreg extension registry, which only the author's process knows")


# -- memo, stack and frames


def _put(m: Machine, pos: int) -> int:
    text, pos = _line(m, pos)
    number = int(text)
    if not 0 <= number < 1 << 32:
        raise m.corrupt(f"the memo entry {text[:20]}, expected a number of 32 bits")
    m.expect_numbers()
    m.memo[number] = m.stack[-1]
    return pos


def _memoize(m: Machine, _: int) -> None:
    m.memoize()


def _get(m: Machine, pos: int) -> int:
    text, pos = _line(m, pos)
    m.stack.append(m.memo[int(text)])
    return pos


def _long_binget(m: Machine, pos: int) -> int:
    m.stack.append(m.memo[int.from_bytes(m.take(pos, 4), "little")])
    return pos + 4


def _pop(m: Machine, _: int) -> None:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()


def _pop_mark(m: Machine, _: int) -> None:
    m.pop_mark()


def _dup(m: Machine, _: int) -> None:
    m.stack.append(m.stack[-1])


def _proto(m: Machine, pos: int) -> int:
    protocol = m.data[pos]
    if protocol > NO_PROTOCOL:
        raise m.corrupt(f"pickle protocol {protocol}, which there is none; protocols 0 to 5 are read")
    if protocol > 5:
        raise UnsupportedCheckpointError(f"{m.where}: pickle protocol {protocol}; protocols 0 to 5 are read")
    return pos + 1


def _frame(m: Machine, pos: int) -> int:
    count = int.from_bytes(m.take(pos, 8), "little")
    if pos + 8 + count > len(m.data):
        raise m.truncated(f"a frame of {count} bytes, {len(m.data) - pos - 8} are left")
    return pos + 8


def _buffer(m: Machine, _: int) -> None:
    raise m.corrupt("an out-of-band buffer, which no file can hold")


def _unknown(m: Machine, pos: int) -> None:
    raise m.corrupt(f"unknown opcode 0x{m.data[pos - 1]:02x}")


OPCODES: list[Opcode] = [_unknown] * 256
for _codes, _function in {
    b"N": _constant(None), b"\x88": _constant(True), b"\x89": _constant(False),
    b"M": _int(2, signed=False), b"J": _int(4, signed=True), b"\x8a": _long(1), b"\x8b": _long(4), b"G": _float,
    b"I": _line_int, b"L": _line_int, b"F": _line_float,
    b"X": _text(4), b"\x8c": _text(1), b"\x8d": _text(8), b"V": _line_unicode, b"S": _line_string,
    b"U": _bytes(1, _py2), b"T": _bytes(4, _py2),
    b"C": _bytes(1, bytes), b"B": _bytes(4, bytes), b"\x8e": _bytes(8, bytes), b"\x96": _bytes(8, bytes),
    b"(": _mark, b")": _constant(()), b"\x85": _tuple(1), b"\x86": _tuple(2), b"\x87": _tuple(3), b"t": _mark_tuple,
    b"}": _new(PickledDict, _EMPTY_DICT), b"]": _new(list, _EMPTY_LIST), b"\x8f": _new(set, _EMPTY_SET),
    b"d": _dict, b"l": _list, b"\x91": _frozenset,
    b"a": _append, b"e": _appends, b"s": _setitem, b"u": _setitems, b"\x90": _additems,
    b"c": _global, b"\x93": _stack_global, b"R": _reduce, b"\x81": _newobj, b"\x92": _newobj_ex,
    b"i": _inst, b"o": _obj, b"b": _build, b"P": _persid, b"Q": _binpersid, b"\x82\x83\x84": _extension,
    b"p": _put, b"\x94": _memoize, b"g": _get, b"j": _long_binget,
    b"0": _pop, b"1": _pop_mark, b"2": _dup, b"\x80": _proto, b"\x95": _frame, b"\x97\x98": _buffer,
}.items():  # fmt: skip
    for _code in _codes:
        OPCODES[_code] = _function
