"""A pickle interpreter that can't run anything: every opcode acts on plain values and on stand-ins of `inert`.

The package's docstring says why. The interpreter has limits on size, depth of the stack and length of numbers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import CorruptCheckpointError, LimitExceededError, UnsafeCheckpointError
from torchgraft.reading.pickles.globals import Globals
from torchgraft.reading.pickles.inert import (
    Array,
    ArrayType,
    GlobalName,
    PickledDict,
    Stub,
    TensorRef,
    Unreadable,
    brief,
)
from torchgraft.reading.pickles.opcodes import MAX_STACK, OPCODES

if TYPE_CHECKING:
    from torchgraft.reading.pickles.tensor_runs import TensorRuns

MAX_PICKLE = 512 << 20
ROUND = 1 << 20  # opcodes between two looks at what they have come to
FREE_ROUNDS = 8
OPCODES_EACH = 128  # for each storage that is named, and each KiB of the file; a tensor takes 40 to 110
MAX_TUPLE_KEYS = 10_000
# Python hashes whole numbers modulo this one (sys.hash_info.modulus): from here on, any number of them can be made to meet.
NO_KEY = (1 << 61) - 1
MAX_LIVE = 1 << 20
# Bytes of memory that values may take beyond their texts and numbers: in any case, and for each byte of the pickle. A tensor
# takes 150 bytes there, and 500 as a description.
FREE_MADE, MADE_EACH = 64 << 20, 16
MAX_PACKED = 4  # times the bytes of the file: a pickle may be compressed, and then all of it says the same
_LONG_BINGET = re.compile(rb"j(?=(.{4}))", re.DOTALL)
_SHORT = frozenset(number.to_bytes(4, "little") for number in range(256))
_MIXED = "memo entries both with numbers and without"
_PLAIN_KEYS = (str, int, float, bytes, type(None))


class Machine:
    """One run over one pickle. `where` names the file and record in messages.

    `persistent` says what a persistent id stands for, `runs` is a shortcut through tensors. `size` is that of the files which
    the pickle describes, in bytes: large ones may have large pickles.
    """

    def __init__(
        self,
        data: bytes,
        where: str,
        persistent: Callable[[Any], Any] | None = None,
        runs: TensorRuns | None = None,
        *,
        size: int = 0,
    ) -> None:
        if len(data) > MAX_PICKLE:
            raise LimitExceededError(f"{where}: pickle of {len(data)} bytes, the limit is {MAX_PICKLE}")
        self.data = data
        self.where = where
        self.globals = Globals()
        self.persistent = persistent
        self.runs = runs
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.memo_is_partial = False  # see `put`
        self.unkept = 0  # see `memoize`
        self.is_truncated = False
        self.allowance = size >> 10  # times OPCODES_EACH; each storage that is named adds to it
        self.room = FREE_MADE + MADE_EACH * min(len(data), MAX_PACKED * size or len(data))
        self._tuple_keys = 0
        self._numbers: dict[tuple[int, ...], tuple[int, ...]] = {}

    @cached_property
    def live(self) -> AbstractSet[bytes] | None:
        """The numbers, as LONG_BINPUT has them, under which a memo entry may be asked for; None: any.

        A pickler numbers all that it writes, and few of it is ever asked for again: the memo of a million tensors would
        take more memory than all else. Wherever the byte of LONG_BINGET stands, it counts as one.
        """
        found = set(_SHORT)
        for get in _LONG_BINGET.finditer(self.data):
            found.add(get[1])
            if len(found) > MAX_LIVE:
                return None
        return found

    def only_value(self) -> Any:
        """Return the pickled value, which must be all there is."""
        value, end = self.run()
        if end != len(self.data):
            raise CorruptCheckpointError(f"{self.where}: {len(self.data) - end} bytes after STOP")
        return value

    def run(self, start: int = 0) -> tuple[Any, int]:
        """Return the pickled value that begins at `start`, and the position behind its STOP."""
        pos = start
        try:
            pos = self._rounds(start)
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise self.corrupt(self._cause(error)) from error
        if len(self.stack) != 1 or self.marks:
            raise self.corrupt(f"the stack holds {len(self.stack)} values at STOP, expected one")
        self.globals.finish(self)
        return self.stack[0], pos

    def _rounds(self, pos: int) -> int:
        """Run to STOP; return the position behind it."""
        done = 0
        while (pos := self._steps(pos)) >= 0:
            done += 1
            if max(len(self.stack), len(self.marks)) > MAX_STACK:
                raise LimitExceededError(f"{self.where}: more than {MAX_STACK} values on the pickle's stack")
            if done > FREE_ROUNDS and done * ROUND > OPCODES_EACH * self.allowance:
                raise LimitExceededError(
                    f"{self.where}: {done * ROUND} opcodes, far too many for the file: it describes nothing with them"
                )
        return -pos

    def _steps(self, pos: int) -> int:
        """Run a round of opcodes; return where to go on, or the position behind STOP, negated.

        The commonest opcodes are handled here, all others by the table of functions.
        """
        data, stack, marks, memo, opcodes, runs = self.data, self.stack, self.marks, self.memo, OPCODES, self.runs
        for _ in repeat(None, ROUND):
            self.at = pos
            op = data[pos]
            if op == 0x58 and runs is not None:  # BINUNICODE
                after = runs.take(self, pos)
                pos = after if after > pos else opcodes[op](self, pos + 1) or pos + 1
            elif op == 0x71:  # BINPUT
                memo[data[pos + 1]] = stack[-1]
                pos += 2
            elif op == 0x72:  # LONG_BINPUT
                self.put(data[pos + 1 : pos + 5])
                pos += 5
            elif op == 0x68:  # BINGET
                stack.append(memo[data[pos + 1]])
                pos += 2
            elif op == 0x4B:  # BININT1
                stack.append(data[pos + 1])
                pos += 2
            elif op == 0x28 and len(stack) < MAX_STACK:  # MARK
                marks.append(len(stack))
                pos += 1
            elif op == 0x74:  # TUPLE
                at = marks.pop()
                stack[at:] = [tuple(stack[at:])]
                pos += 1
            elif op == 0x2E:  # STOP
                return -pos - 1
            else:
                pos = opcodes[op](self, pos + 1) or pos + 1
        return pos

    def _cause(self, error: Exception) -> str:
        if self.at >= len(self.data) or (isinstance(error, IndexError) and self.at + 2 > len(self.data)):
            return f"truncated: {len(self.data)} bytes end before STOP"
        if isinstance(error, IndexError) and not self.stack:
            return "an opcode takes from an empty stack"
        if isinstance(error, KeyError) and error.args and type(error.args[0]) is int:
            return f"memo entry {brief(error.args[0], 30)} was never set"
        if isinstance(error, ValueError):  # int() and float() of texts, and escapes in texts
            return "a number or a text that can't be read"
        return "malformed: values of a wrong kind"

    def corrupt(self, text: str) -> CorruptCheckpointError:
        """Return an error that names the file, the record and the position."""
        return CorruptCheckpointError(f"{self.where}, byte {self.at} of the pickle: {text}")

    def truncated(self, text: str) -> CorruptCheckpointError:
        """Return an error that says that the pickle ends too early; with more bytes it may be sound."""
        self.is_truncated = True
        return self.corrupt(f"truncated: {text}")

    def unsafe(self, text: str) -> UnsafeCheckpointError:
        """Return an error that names what would have been run, and other foreign names met so far."""
        also = ", ".join([str(n) for n in self.globals.foreign if str(n) not in text][:4])
        return UnsafeCheckpointError(f"{self.where}: {text}; nothing was run" + (f". Also met: {also}" if also else ""))

    # -- helpers of the opcodes

    def once(self, value: Any) -> Any:
        """Return one tuple for all that hold the same whole numbers: shapes repeat, and there may be a million."""
        if type(value) is not tuple:
            return value
        for number in value:
            if type(number) is not int or not -NO_KEY < number < NO_KEY:  # True equals 1
                return value
        return self._numbers.setdefault(value, value)

    def put(self, number: bytes) -> None:
        """Keep the topmost value under a LONG_BINPUT's number if anything may ask for it."""
        if not self.stack:
            raise IndexError
        self.expect_numbers()
        if self.live is None or number in self.live:
            self.memo[int.from_bytes(number, "little")] = self.stack[-1]
        else:
            self.memo_is_partial = True

    def memoize(self) -> None:
        """Keep the topmost value under the next number if anything may ask for it."""
        if self.memo_is_partial:
            raise self.corrupt(_MIXED)
        value, number = self.stack[-1], len(self.memo) + self.unkept
        if self.live is None or number.to_bytes(4, "little") in self.live:
            self.memo[number] = value
        else:
            self.unkept += 1

    def expect_numbers(self) -> None:
        """Raise CorruptCheckpointError where entries of the memo went without their numbers so far, and not all are kept."""
        if self.unkept:
            raise self.corrupt(_MIXED)

    def spend(self, nbytes: int) -> None:
        """Count memory that values take which few opcodes make, and raise LimitExceededError where it becomes too much.

        A call may copy a list of a million values, and a pickle of ten bytes more ask for the same call again.
        """
        self.room -= nbytes
        if self.room < 0:
            raise LimitExceededError(
                f"{self.where}, byte {self.at}: makes values that take far more memory than its {len(self.data)} bytes describe"
            )

    def take(self, pos: int, count: int) -> bytes:
        """Return `count` bytes at `pos`, all of which must be there."""
        if pos + count > len(self.data):
            raise self.truncated(f"{count} bytes expected, {len(self.data) - pos} are left")
        return self.data[pos : pos + count]

    def pop(self) -> Any:
        """Take the topmost value, never one below the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.corrupt("an opcode takes more values than there are")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        """Take all values above the last mark."""
        if not self.marks:
            raise self.corrupt("no MARK for an opcode that needs one")
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def set_items(self, target: Any, values: list[Any]) -> None:
        """Put alternating keys and values into a dictionary or a stand-in."""
        if len(values) % 2:
            raise self.corrupt("a key without a value")
        into = target.items if isinstance(target, Stub) else target
        if not isinstance(into, dict):
            raise self.corrupt(f"items are set on a {kind_of(target)}")
        before = len(into)
        for key, value in zip(values[::2], values[1::2], strict=True):
            into[key if type(key) is str else self.checked_key(key)] = value
        if len(into) != before + len(values) // 2:
            seen: set[Any] = set()
            for key in values[::2]:
                if key in seen or before:
                    raise self.corrupt(f"duplicate key {brief(key, 160)}")
                seen.add(key)

    def checked_key(self, key: Any, depth: int = 0) -> Any:
        """Return `key` if it can be one: plain, or a short and flat tuple of such; stand-ins become their names.

        Hashes of numbers, and of tuples of numbers, can be foreseen: many that meet would take hours to tell apart.
        """
        if isinstance(key, _PLAIN_KEYS):
            if type(key) is int and not -NO_KEY < key < NO_KEY:
                raise LimitExceededError(f"{self.where}: a whole number of {key.bit_length()} bits as a dictionary key")
            return key
        if isinstance(key, tuple) and len(key) <= 32 and depth < 4:
            self._tuple_keys += 1
            if self._tuple_keys > MAX_TUPLE_KEYS:
                raise LimitExceededError(f"{self.where}: more than {MAX_TUPLE_KEYS} tuples as dictionary keys")
            return tuple([self.checked_key(k, depth + 1) for k in key])
        if isinstance(key, (GlobalName, Stub)) or (isinstance(key, TensorRef) and not depth):
            return key
        if isinstance(key, tuple):
            raise LimitExceededError(f"{self.where}: a dictionary key of too great depth or length")
        raise self.corrupt(f"a {kind_of(key)} as a dictionary key")

    def extend(self, target: Any, values: list[Any]) -> None:
        """Append values to a list or a stand-in."""
        into = target.values if isinstance(target, (Stub, Array)) else target
        if not isinstance(into, list):
            raise self.corrupt(f"values are appended to a {kind_of(target)}")
        into.extend(values)

    def build(self, target: Any, state: Any) -> None:
        """Give a stand-in its state."""
        if isinstance(target, (Array, ArrayType)):
            if fault := target.set_state(state):
                raise self.corrupt(fault)
        elif isinstance(target, Stub):
            self.globals.check_state(self, target, state)
            target.state = state
        elif isinstance(target, PickledDict):
            if isinstance(state, dict):
                self.globals.check_state(self, target, state)
                target.attributes = state
        elif isinstance(target, (TensorRef, Unreadable)):
            self.globals.set_variable(self, target, state)
        elif isinstance(target, GlobalName):
            raise self.unsafe(f"changes the state of {target}")
        else:
            raise self.corrupt(f"a state is given to a {kind_of(target)}")


def kind_of(value: Any) -> str:
    """Return a word for the kind of `value`."""
    if isinstance(value, (GlobalName, Stub)):
        return str(value)
    kind = type(value).__name__
    return {"TensorRef": "tensor", "PickledDict": "dict", "Unreadable": "tensor"}.get(kind, kind)
