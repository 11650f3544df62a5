"""A shortcut through the pickles of state dicts: a name and its tensor, taken in one step.

torch.save (pickle protocol 2, since torch 0.4) spends the same 26 opcodes on every tensor of a dictionary, and few files
hold anything else; our own writer spends them too, but numbers none of it. One regular expression knows them by their bytes; whatever differs in the least is left to the
interpreter, opcode by opcode. The outcome is the same either way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from torchgraft.reading.pickles.inert import StorageRef, StorageType, TensorRef
from torchgraft.reading.pickles.opcodes import MAX_STACK

if TYPE_CHECKING:
    from torchgraft.reading.pickles.unpickle import Machine

_TEXT = 0x58
_PUT = rb"(?:r(.{4}))?"
_GET = rb"(h.|j.{4})"
_INT = rb"(?:K.|M..|J.{4})"
_INTS = (
    rb"(?:\)|("
    + rb"|".join([_INT + rb"\x85", _INT * 2 + rb"\x86", _INT * 3 + rb"\x87", rb"\(" + _INT + rb"{1,64}t"])
    + rb")"
    + _PUT
    + rb")"
)
# What follows a name: _rebuild_tensor_v2(persistent id, offset, shape, stride, requires_grad, OrderedDict()), where the
# persistent id is ("storage", type, key, device, number of elements).
_TENSOR = re.compile(
    _PUT
    + _GET
    + rb"\(\("
    + _GET
    + _GET
    + rb"X(.{4})(\d+)"
    + _PUT
    + _GET
    + rb"("
    + _INT
    + rb")t"
    + _PUT
    + rb"Q"
    + rb"("
    + _INT
    + rb")"
    + _INTS
    + _INTS
    + rb"[\x88\x89]"
    + _GET
    + rb"\)R"
    + _PUT
    + rb"t"
    + _PUT
    + rb"R"
    + _PUT,
    re.DOTALL,
)


_NUMBERS = re.compile(_INT, re.DOTALL)
_FUNCTION, _HOOKS = ("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")


class Storages(Protocol):
    """Knows the storages of a file by key."""

    def storage(self, kind: StorageType, key: str, location: str, numel: int) -> StorageRef:
        """Return the storage that these facts mean; raises CheckpointError where they contradict earlier ones."""
        ...


class TensorRuns:
    """Takes runs of names and tensors in steps of one tensor."""

    def __init__(self, storages: Storages) -> None:
        self._storage = storages.storage
        self._tuples = _Tuples({None: ()})

    def take(self, m: Machine, pos: int) -> int:
        """Push all names with their tensors that follow each other from `pos` on; return the position behind them.

        That is `pos` itself where there are none.
        """
        data, stack, tuples, live, kinds = m.data, m.stack, self._tuples, m.live, _Kinds(m)
        while len(data) > pos and data[pos] == _TEXT and len(stack) < MAX_STACK and live is not None:
            end = pos + 5 + int.from_bytes(data[pos + 1 : pos + 5], "little")
            found = _TENSOR.match(data, end)
            if found is None:
                break
            (
                put_name,
                function,
                tag,
                kind,
                length,
                key,
                put_key,
                device,
                count,
                put_id,
                offset,
                shape,
                put_shape,
                stride,
                put_stride,
                hooks,
                put_hooks,
                put_args,
                put_tensor,
            ) = found.groups()
            puts = (put_name, put_key, put_id, put_shape, put_stride, put_hooks, put_args, put_tensor)
            known, (numel,) = kinds[function, tag, kind, device, hooks], tuples[count]
            if known is None or not live.isdisjoint(puts) or int.from_bytes(length, "little") != len(key) or numel < 0:
                break
            m.at = pos
            name = str(data[pos + 5 : end], "utf-8", "surrogatepass")
            storage = self._storage(known[0], key.decode(), known[1], numel)
            stack += (name, TensorRef(storage, tuples[offset][0], tuples[shape], tuples[stride]))
            m.forgotten = m.forgotten or any(puts)
            pos = found.end()
        return pos


class _Kinds(dict[tuple[bytes, ...], tuple[StorageType, str] | None]):
    """The storage type and device that the memo holds for five GETs; None unless all five are what a tensor needs."""

    def __init__(self, m: Machine) -> None:
        super().__init__()
        self._machine = m

    def __missing__(self, gets: tuple[bytes, ...]) -> tuple[StorageType, str] | None:
        memo, known = self._machine.memo, self._machine.table.known
        function, tag, kind, device, hooks = (memo.get(int.from_bytes(get[1:], "little")) for get in gets)
        fits = function is known.get(_FUNCTION) and hooks is known.get(_HOOKS) and type(tag) is str and tag == "storage"
        found = (kind, device) if fits and type(kind) is StorageType and type(device) is str else None
        self[gets] = found
        return found


class _Tuples(dict[bytes | None, tuple[int, ...]]):
    """Tuples of whole numbers by the opcodes that push and join them: shapes repeat, and there may be a million."""

    def __missing__(self, raw: bytes) -> tuple[int, ...]:
        found = self[raw] = tuple([_number(one) for one in _NUMBERS.findall(raw.removeprefix(b"("))])
        return found


def _number(raw: bytes) -> int:
    """Return the number that BININT1, BININT2 or BININT pushes."""
    return raw[1] if len(raw) == 2 else int.from_bytes(raw[1:], "little", signed=len(raw) == 5)
