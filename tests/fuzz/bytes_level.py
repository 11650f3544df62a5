"""Mutations that know nothing of the format but that files hold numbers, lengths and blocks."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

NUMBERS = (0, 1, 2, 7, 8, 24, 63, 64, 65, 127, 128, 255, 256, 65535, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
           1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
HOSTILE = ("", "\0", "../../x", "/etc/hostname", "\x1b[2J\x1b]0;x\7", "<img src=x onerror=alert(1)>", "\u202egnp.exe", "w" * 70_000,
           "C:\\x", "a/../b", "\ud800", "w", "__class__", "weights.data\0.txt", "data/0", "🦆" * 300)  # fmt: skip


def number(dice: Random) -> int:
    """An odd number: a limit, or one next to it, or any."""
    value = dice.choice(NUMBERS) + dice.choice((-1, 0, 0, 1))
    return dice.choice((value, value, -value, dice.randrange(1 << 64)))


def flip(data: bytearray, dice: Random) -> None:
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def overwrite(data: bytearray, dice: Random) -> None:
    data[dice.randrange(len(data))] = dice.randrange(256)


def odd_number(data: bytearray, dice: Random) -> None:
    at, code = dice.randrange(len(data)), dice.choice("BHIQ")
    packed = struct.pack(dice.choice("<>") + code, number(dice) % (1 << 8 * struct.calcsize("<" + code)))
    data[at : at + len(packed)] = packed


def cut(data: bytearray, dice: Random) -> None:
    del data[dice.randrange(len(data)) :]


def remove(data: bytearray, dice: Random) -> None:
    at = dice.randrange(len(data))
    del data[at : at + dice.choice((1, 2, 4, 8, 30))]


def insert(data: bytearray, dice: Random) -> None:
    at = dice.randrange(len(data))
    data[at:at] = dice.choice((bytes(8), b"\xff" * 4, dice.randbytes(6), b"\n", b"}", b"PK\1\2", b"\x80\2"))


def repeat(data: bytearray, dice: Random) -> None:
    at = dice.randrange(len(data))
    part = data[at : at + dice.choice((4, 16, 64, 200))]
    data[at:at] = part * dice.choice((1, 1, 2, 50))


def exchange(data: bytearray, dice: Random) -> None:
    a, b, size = dice.randrange(len(data)), dice.randrange(len(data)), dice.choice((1, 4, 8, 46))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def more(data: bytearray, dice: Random) -> None:
    data += dice.choice((bytes(1), bytes(5000), bytes(data), b".", b"PK\5\6" + bytes(18)))


ALL = (flip, flip, overwrite, odd_number, odd_number, cut, remove, insert, repeat, exchange, more)


def mutate(content: bytes, dice: Random) -> bytes:
    """One to four of the mutations in a row."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        dice.choice(ALL)(data, dice)
    return bytes(data[: 1 << 20])
