"""A shortcut through the pickles of state dicts: a name and its tensor, taken in one step.

torch.save (pickle protocol 2, since torch 0.4) spends the same 26 opcodes on every tensor of a dictionary, and few files hold
anything else; our own writer spends them too, without memo entries. One regular expression knows them by their bytes;
whatever differs in the least is left to the machine, opcode by opcode. The outcome is the same either way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from torchgraft.reading.pickles.inert import StorageType
from torchgraft.reading.pickles.known_globals import KNOWN_GLOBALS
from torchgraft.reading.pickles.machine import Machine
from torchgraft.reading.pickles.opcodes import MAX_STACK

_TEXT = 0x58
_PUT = rb"(?:r(.{4}))?"
_GET = rb"(?:h.|j.{4})"
_INT = rb"(?:K.|M..|J.{4})"
_SOME_INTS = (_INT + rb"\x85", _INT * 2 + rb"\x86", _INT * 3 + rb"\x87", rb"\(" + _INT + rb"{1,64}t")
_INTS = rb"(?:\)|(" + rb"|".join(_SOME_INTS) + rb")" + _PUT + rb")"
# What follows a name: _rebuild_tensor_v2(persistent id, offset, shape, stride, requires_grad, OrderedDict()), where the
# persistent id is ("storage", type, key, device, number of elements).
_TENSOR = re.compile(
    _PUT
    + rb"(" + _GET + rb"\(\(" + _GET + _GET + rb")"  # the function; "storage", type
    + rb"X(.{4})(\d+)" + _PUT  # key
    + rb"(" + _GET + _INT + rb")t" + _PUT + rb"Q"  # device, number of elements; the persistent id
    + rb"(" + _INT + rb")" + _INTS + _INTS  # offset, shape, stride
    + rb"[\x88\x89](" + _GET + rb")\)R" + _PUT  # requires_grad, OrderedDict()
    + rb"t" + _PUT + rb"R" + _PUT,
    re.DOTALL,
)  # fmt: skip
# Two of its groups once more: function, tag and type; device and number of elements.
_HEAD = re.compile(rb"(" + _GET + rb")\(\((" + _GET + rb")(" + _GET + rb")", re.DOTALL)
_SIZED = re.compile(rb"(" + _GET + rb")(" + _INT + rb")", re.DOTALL)
_NUMBERS = re.compile(_INT, re.DOTALL)
_FUNCTION, _HOOKS = ("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")


@dataclass(slots=True, eq=False)
class TensorFacts:
    """All that a pickle says of a tensor but the key of its storage: a million tensors share few of these.

    `view` is what the owner of the storages makes of them, once it looked.
    """

    kind: StorageType
    location: str
    numel: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    view: Any = None


class TensorStorages(Protocol):
    """Knows the storages of a file by key."""

    def tensor(self, key: str, facts: TensorFacts) -> Any:
        """Return the tensor in the storage `key`; raises CheckpointError where facts contradict earlier ones."""
        ...


class TensorRuns:
    """Takes runs of names and tensors in steps of one tensor."""

    def __init__(self, storages: TensorStorages) -> None:
        self._tensor = storages.tensor
        self._tuples = _Tuples({None: ()})

    def take(self, m: Machine, pos: int) -> int:
        """Push all names with their tensors that follow each other from `pos` on; return the position behind them.

        That is `pos` itself where there are none.
        """
        data, stack, live, tensor, known = m.data, m.stack, m.live, self._tensor, _Known(m, self._tuples)
        while len(data) > pos and data[pos] == _TEXT and len(stack) < MAX_STACK and live is not None:
            end = pos + 5 + int.from_bytes(data[pos + 1 : pos + 5], "little")
            found = _TENSOR.match(data, end)
            if found is None:
                break
            p, head, length, key, q, sized, r, first, shape, s, stride, t, last, u, v, w = found.groups()
            puts = (p, q, r, s, t, u, v, w)  # the numbers under which the memo keeps parts
            facts = known[head, sized, first, shape, stride, last]
            if facts is None or not live.isdisjoint(puts) or int.from_bytes(length, "little") != len(key):
                break
            m.at = pos
            name = str(data[pos + 5 : end], "utf-8", "surrogatepass")
            stack += (name, tensor(key.decode(), facts))
            m.memo_is_partial = m.memo_is_partial or any(puts)
            pos = found.end()
        return pos


class _Known(dict[tuple[bytes, ...], TensorFacts | None]):
    """The facts that opcodes mean: five GETs and what the memo holds for them, and the numbers and tuples beside them.

    None where a GET gives something else than a tensor needs.
    """

    def __init__(self, m: Machine, tuples: _Tuples) -> None:
        super().__init__()
        self._machine = m
        self._tuples = tuples

    def __missing__(self, said: tuple[bytes, ...]) -> TensorFacts | None:
        memo, known = self._machine.memo, KNOWN_GLOBALS
        head, sized, offset, shape, stride, last = said
        ((get_device, count),) = _SIZED.findall(sized)
        gets = (*_HEAD.findall(head)[0], get_device, last)
        function, tag, kind, device, hooks = (memo.get(int.from_bytes(get[1:], "little")) for get in gets)
        fits = function is known.get(_FUNCTION) and hooks is known.get(_HOOKS) and type(tag) is str and tag == "storage"
        (numel,), (first,) = self._tuples[count], self._tuples[offset]
        found = None
        if fits and type(kind) is StorageType and type(device) is str and numel >= 0:
            found = TensorFacts(kind, device, numel, first, self._tuples[shape], self._tuples[stride])
        self[said] = found
        return found


class _Tuples(dict[bytes | None, tuple[int, ...]]):
    """Tuples of whole numbers by the opcodes that push and join them: shapes repeat, and there may be a million."""

    def __missing__(self, raw: bytes) -> tuple[int, ...]:
        found = self[raw] = tuple([_number(one) for one in _NUMBERS.findall(raw.removeprefix(b"("))])
        return found


def _number(raw: bytes) -> int:
    """Return the number that BININT1, BININT2 or BININT pushes."""
    return raw[1] if len(raw) == 2 else int.from_bytes(raw[1:], "little", signed=len(raw) == 5)
