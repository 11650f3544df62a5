"""Mutations of JSON tables and of numpy's headers."""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from archive_level import length_prefixed
from bytes_level import HOSTILE, mutate, number

if TYPE_CHECKING:
    from random import Random

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2.5, 1 << 64, "", "F32", "BF16", "F4", [], [0], [1, 2, 3], {}, {"a": 1}, [[1]], "../x", [2**31, 2**33],
    [-1, -1], "model.safetensors.index.json", [1] * 70, ["a"],
)  # fmt: skip


def mutate_json(content: bytes, dice: Random) -> bytes:
    """Change a value or a key somewhere in the table, double a key, or go down to the bytes."""
    if dice.random() < 0.2:
        return mutate(content, dice)
    tree = json.loads(content)
    for _ in range(dice.choice((1, 1, 2, 3))):
        _change(tree, dice)
    text = json.dumps(tree, ensure_ascii=dice.random() < 0.5)
    if dice.random() < 0.1 and text.count(",") > 1:
        first = text.index(",")
        text = text[: first + 1] + text[1:first] + "," + text[first + 1 :]
    if dice.random() < 0.05:
        text = text.replace("0", dice.choice(("NaN", "1e999", "-0", "0x1", "9" * 5000, "[" * 3000)), 1)
    return text.encode("utf-8", "surrogatepass")


def _change(tree: Any, dice: Random) -> None:
    """Walk down at random and change one thing there."""
    node = tree
    while isinstance(node, (dict, list)) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = dice.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key] or dice.random() < 0.3:
            break
        node = node[key]
    else:
        return
    kind = dice.randrange(5)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[dice.choice(HOSTILE)] = deepcopy(node[key])
    elif kind == 2:
        node[key] = deepcopy(dice.choice(VALUES))  # or else the next mutant would change the choice
    elif kind == 3:
        node[key] = number(dice)
    elif isinstance(node, dict):
        node[dice.choice(list(tree) if isinstance(tree, dict) and tree else ["x"])] = node.pop(key)
    else:
        node[key] = dice.choice(HOSTILE)


def mutate_safetensors(content: bytes, dice: Random) -> bytes:
    """Change the header, its length kept right, or the bytes."""
    size = int.from_bytes(content[:8], "little")
    if dice.random() < 0.2:
        return mutate(content, dice)
    return length_prefixed(mutate_json(content[8 : 8 + size], dice), content[8 + size :])


HEADERS = ("'descr': '<f4'", "'descr': '|O'", "'descr': '>f8'", "'descr': '<U7'", "'descr': [('a', '<f4')]", "'descr': '<M8[ns]'",
           "'fortran_order': True", "'fortran_order': None", "'shape': (2, 3)", "'shape': ()", "'shape': (-1,)", "'shape': (2**9,)",
           "'shape': (1099511627776,)", "'shape': [2, 3]", "'shape': (2L, 3L)", "'shape': " + "(" * 50, "'x': 1", "'descr': '|b1'",
           "'shape': (" + "9" * 29 + ", 9)", "'shape': (" + "1, " * 80 + ")", "__import__('os')", "'descr': '\0'")  # fmt: skip


def mutate_npy(content: bytes, dice: Random) -> bytes:
    """Change the header's text, its length kept right, or the bytes."""
    if dice.random() < 0.3:
        return mutate(content, dice)
    (size,) = struct.unpack_from("<H", content, 8)
    parts = content[10 : 10 + size].decode("latin-1").strip().strip("{}").split(", '")
    parts = [p if i == 0 else "'" + p for i, p in enumerate(parts)]
    parts[dice.randrange(len(parts))] = dice.choice(HEADERS)
    if dice.random() < 0.2:
        parts.append(dice.choice(HEADERS))
    header = ("{" + ", ".join(parts) + "}\n").encode("latin-1")
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + size :]
