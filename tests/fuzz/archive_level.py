"""Mutations of zip and tar archives: their members and the records that describe them, with checksums made right again."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zipfile
from typing import TYPE_CHECKING

from bytes_level import HOSTILE, mutate, number
from pickle_level import mutate_pickle

if TYPE_CHECKING:
    from random import Random

# The places of the numbers in the records of a zip archive (APPNOTE.TXT 4.3): record, offset, size.
FIELDS = tuple(
    (sign, at, size)
    for sign, places in {
        b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
        b"PK\1\2": ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4)),
        b"PK\5\6": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
        b"PK\6\6": ((4, 8), (24, 8), (32, 8), (40, 8), (48, 8)),
    }.items()
    for at, size in places
)


def mutate_zip(content: bytes, dice: Random) -> bytes:
    """Change a member, the list of members, a field of a record, or bytes."""
    kind = dice.randrange(10)
    if kind == 0:
        return mutate(content, dice)
    if kind <= 2:
        return _field(content, dice)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    methods = [zipfile.ZIP_STORED] * len(members)
    _change(members, methods, dice, inside=kind >= 4)
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")
        for (name, data), method in zip(members, methods, strict=False):
            try:
                archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
            except (ValueError, struct.error):  # a name that no archive can hold
                continue
    return out.getvalue()


def _change(members: list[tuple[str, bytes]], methods: list[int], dice: Random, *, inside: bool) -> None:
    at = dice.randrange(len(members))
    if inside:
        pickles = [i for i, (name, _) in enumerate(members) if name.endswith(".pkl")]
        at = dice.choice(pickles) if pickles and dice.random() < 0.7 else at
        name, data = members[at]
        members[at] = (name, mutate_pickle(data, dice) if name.endswith(".pkl") else mutate(data or b"\0", dice))
        return
    name, data = members[at]
    kind = dice.randrange(6)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.insert(0, (name, mutate(data or b"\0", dice)))
    elif kind == 2:
        members[at] = (dice.choice(HOSTILE[:10]) + name, data)
    elif kind == 3:
        methods[at] = zipfile.ZIP_DEFLATED
    elif kind == 4:
        members.append(
            (
                name.rpartition("/")[0] + "/" + dice.choice(("version", "byteorder", ".storage_alignment", "data/1")),
                data,
            )
        )
    else:
        dice.shuffle(members)


def _field(content: bytes, dice: Random) -> bytes:
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 2))):
        sign, at, size = dice.choice(FIELDS)
        places = [i for i in range(len(data)) if data.startswith(sign, i)]
        if places:
            start = dice.choice(places) + at
            old = int.from_bytes(data[start : start + size], "little")
            value = dice.choice((number(dice), old + dice.choice((-1, 1, 64, -64)))) % (1 << 8 * size)
            data[start : start + size] = value.to_bytes(size, "little")
    return bytes(data)


def mutate_tar(content: bytes, dice: Random) -> bytes:
    """Change a member or the list of members."""
    if dice.random() < 0.2:
        return mutate(content, dice)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive if m.isfile()]  # type: ignore[union-attr]
    at = dice.randrange(len(members))
    name, data = members[at]
    kind = dice.randrange(8)
    if kind == 0:
        members.insert(at, (name, mutate(data, dice)))
    elif kind == 1:
        members[at] = (dice.choice(HOSTILE[:10]) or "x", data)
    elif kind == 2:
        del members[at]
    else:
        members[at] = (name, dice.choice((mutate_pickle, mutate))(data, dice))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name.replace("\ud800", "x"))
            info.size = len(data)
            info.type = dice.choice((tarfile.REGTYPE,) * 30 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def mutate_legacy(content: bytes, dice: Random) -> bytes:
    """Change the pickles at the head, or the bytes; `content` begins with pickles."""
    if dice.random() < 0.3:
        return mutate(content, dice)
    end = content.rindex(b"e.", 0, len(content)) + 2 if b"e." in content else len(content)
    return mutate_pickle(content[:end], dice) + content[end:]


def length_prefixed(header: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + rest
