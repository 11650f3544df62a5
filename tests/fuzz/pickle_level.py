"""Mutations of a pickle by its opcodes."""

from __future__ import annotations

import pickletools
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from bytes_level import HOSTILE, NUMBERS, mutate, number

if TYPE_CHECKING:
    from random import Random

NAMES = ("posix\nsystem", "builtins\neval", "torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter",
         "torch\nFloatStorage", "torch\nHalfStorage", "torch.storage\nUntypedStorage", "collections\nOrderedDict",
         "torch\nfloat32", "torch._utils\n_rebuild_tensor_v3", "numpy.core.multiarray\n_reconstruct", "numpy\nndarray",
         "numpy\ndtype", "numpy.core.multiarray\nscalar", "_codecs\nencode", "torch\nSize", "torch.nn.modules.linear\nLinear",
         "torch._utils\n_rebuild_sparse_tensor", "torch._utils\n_rebuild_qtensor", "builtins\nbytearray", "builtins\nset",
         "torch._tensor\n_rebuild_from_type_v2", "torch\ndevice", "copyreg\n_reconstructor", "builtins\nobject",
         "torch.distributed.checkpoint.metadata\nMetadata", "pathlib\nPosixPath", "torch\nTensor")  # fmt: skip
PLAIN = b"()]}lt0120NRbusae.\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x81\x82" + b"Q2od"


def pieces(content: bytes) -> list[bytes]:
    """The opcodes with their arguments; what can't be parsed is the last piece."""
    at = []
    with suppress(Exception):  # a mutant of a mutant
        at.extend(place for _, _, place in pickletools.genops(content))
    return [content[a:b] for a, b in zip(at, [*at[1:], len(content)], strict=True)] if at else [content]


def text(dice: Random) -> bytes:
    raw = dice.choice(HOSTILE).encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(dice: Random) -> bytes:
    value = dice.choice((number(dice), dice.choice(NUMBERS) << 10))
    raw = value.to_bytes(16, "little", signed=True)
    return dice.choice((b"\x8a\x10" + raw, b"K" + raw[:1], b"M" + raw[:2], b"J" + raw[:4]))


def piece(dice: Random) -> bytes:
    """An opcode of any kind."""
    kind = dice.randrange(7)
    if kind == 0:
        return b"c" + dice.choice(NAMES).encode() + b"\n"
    if kind == 1:
        return integer(dice)
    if kind == 2:
        return text(dice)
    if kind == 3:
        return dice.choice((b"h", b"q")) + bytes([dice.randrange(12)])
    if kind == 4:
        return dice.choice((b"j", b"r", b"\x84")) + struct.pack("<I", dice.choice(NUMBERS) & 0xFFFFFFFF)
    if kind == 5:
        return dice.choice((b"\x80", b"\x95", b"\x8e", b"\x96", b"B", b"\x8d")) + dice.randbytes(8)
    return bytes([dice.choice(PLAIN)])


def mutate_pickle(content: bytes, dice: Random) -> bytes:
    """Drop, repeat, exchange, replace or add opcodes, or go down to the bytes."""
    if dice.random() < 0.15:
        return mutate(content, dice)
    ops = pieces(content)
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(ops))
        kind = dice.randrange(7)
        if kind == 0 and len(ops) > 1:
            del ops[at]
        elif kind == 1:
            ops.insert(at, ops[dice.randrange(len(ops))])
        elif kind == 2:
            other = dice.randrange(len(ops))
            ops[at], ops[other] = ops[other], ops[at]
        elif kind == 3:
            ops.insert(at, piece(dice))
        elif kind == 4:
            ops[at] = piece(dice)
        elif kind == 5:
            ops[at] = _alike(ops[at], dice)
        else:
            end = dice.randrange(at, len(ops)) + 1
            ops[end:end] = ops[at:end] * dice.choice((1, 1, 3, 40))
    return b"".join(ops)[: 1 << 19]


def _alike(op: bytes, dice: Random) -> bytes:
    """Another opcode of the same kind: a number for a number, a text for a text."""
    if op[:1] in b"KMJ\x8aIL":
        return integer(dice)
    if op[:1] in (b"X", b"\x8c", b"U", b"T", b"V", b"S"):
        return text(dice)
    if op[:1] == b"c":
        return b"c" + dice.choice(NAMES).encode() + b"\n"
    return piece(dice)
