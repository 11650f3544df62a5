"""A strict reader of tar directories: regular files only, names that stay inside."""

from __future__ import annotations

from torchgraft.core.errors import printable
from torchgraft.reading.disk.files import Window

_BLOCK = 512
MAX_MEMBERS = 10_000
_BESIDE = {b"5", b"x", b"g", b"K", b"L"}  # folders, and what extends the header that follows
_EXTENDING, _CHANGING, _MOST = {b"x", b"g"}, (b" path=", b" size=", b" GNU.sparse", b" linkpath="), 1 << 16
EXTENDED = "\0extended"
_LINKS = {b"1": "hard link", b"2": "symlink", b"3": "device", b"4": "device", b"6": "FIFO"}


def looks_like_tar(head: bytes) -> bool:
    """Return whether `head` is a tar header: its checksum is right."""
    if len(head) < _BLOCK or not head[0]:
        return False
    stored = _octal(head[148:156])
    return stored is not None and stored == sum(head[:148]) + 8 * 32 + sum(head[156:_BLOCK])


def read_members(window: Window) -> dict[str, Window]:
    """Return the files of a tar archive by name, and as `EXTENDED` a header that gives the one behind it another name or size.

    Not all readers take note of such headers.
    """
    out: dict[str, Window] = {}
    at, count = 0, 0
    while at + _BLOCK <= window.size:
        head = window.read(at, _BLOCK)
        if not any(head):
            break
        count += 1
        if count > MAX_MEMBERS:
            raise window.too_large(f"more than {MAX_MEMBERS} members in the tar archive")
        size = _octal(head[124:136])
        if not looks_like_tar(head) or size is None:
            raise window.corrupt(f"tar header at byte {at} is broken (wrong checksum or size)")
        if at + _BLOCK + size > window.size:
            raise window.corrupt(f"truncated: a tar member of {size} bytes at {at}, the file has {window.size} bytes")
        _add(window, head, at + _BLOCK, size, out)
        if _changes_the_next(window, head[156:157], at + _BLOCK, size):
            out[EXTENDED] = window.part(at, _BLOCK, "extended header")
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return out


def _add(window: Window, head: bytes, data: int, size: int, out: dict[str, Window]) -> None:
    name = _text(head[:100])
    if head[257:262] == b"ustar" and _text(head[345:500]):
        name = f"{_text(head[345:500])}/{name}"
    kind = head[156:157]
    if kind in _LINKS:
        raise window.unsafe(f"tar member {printable(name)} is a {_LINKS[kind]}, expected a file")
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise window.unsafe(f"tar member {printable(name)} leads outside the archive (an absolute path or ..)")
    if kind in _BESIDE:
        return
    if kind not in (b"0", b"\0", b"7"):
        raise window.corrupt(f"tar member {printable(name)} is of the unknown kind {kind!r}")
    name = name.removeprefix("./")
    if name in out:
        raise window.corrupt(f"duplicate tar member {printable(name)}")
    out[name] = window.part(data, size, name)


def _changes_the_next(window: Window, kind: bytes, data: int, size: int) -> bool:
    if kind not in _EXTENDING:
        return kind in (b"K", b"L")
    return size > _MOST or any(key in window.read(data, size) for key in _CHANGING)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _octal(raw: bytes) -> int | None:
    text = raw.strip(b" \0")
    if raw[:1] == b"\x80":  # GNU's way to write sizes from 8 GiB on
        return int.from_bytes(raw[1:], "big")
    if not text:
        return 0
    try:
        return int(text, 8) if text.isdigit() else None
    except ValueError:
        return None
