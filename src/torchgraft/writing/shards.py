"""One checkpoint in several files with an index: the layout of transformers, written so that the index is true at any time.

Source of names and index: `split_torch_state_dict_into_shards` of huggingface_hub and its documentation.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count

from torchgraft.core.errors import UsageError, WriteError, printable
from torchgraft.core.facts import PART, part
from torchgraft.core.system.commit import flush_folder, only_writer, sweep, write_bytes
from torchgraft.writing.content import SAFETENSORS, Content
from torchgraft.writing.items import Item
from torchgraft.writing.safetensors import MAX_HEADER, header_cost
from torchgraft.writing.torch_zip import NOTES, ROOT

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?")


@dataclass(frozen=True, slots=True)
class Shards:
    """What was written: the index, the files beside it, their bytes, how many stood there from an earlier run."""

    index: str
    files: tuple[str, ...]
    nbytes: int
    kept: int
    notes: tuple[str, ...] = ()


def size_of(text: str | int) -> int:
    """Return a number of bytes; `"5GB"` is 5·10⁹, `"5GiB"` 5·2³⁰.

    Raises:
        UsageError: it is neither a positive whole number nor a size.
    """
    match = _SIZE.fullmatch(str(text).strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if size <= 0 or isinstance(text, bool):
        raise UsageError(f"shard size {printable(str(text))!r}: give bytes, or a size such as 5GB or 500MiB")
    return size


def split(content: Content, kind: str, most: int) -> list[Content]:
    """Return the content as parts of at most `most` bytes of values each, in the order of names.

    A tensor that is larger has a part of its own. What is not a tensor, and the facts, go into the first.
    """
    groups = _groups(content.items, most, MAX_HEADER * 9 // 10 if kind == SAFETENSORS else 1 << 62)
    where = {item.name: number for number, group in enumerate(groups) for item in group}
    names: list[list[str]] = [[] for _ in groups]
    for name in content.names:
        names[where.get(content.shared.get(name, name), 0)].append(name)
    shared: list[dict[str, str]] = [{} for _ in groups]
    for name, stored in content.shared.items():
        shared[where[stored]][name] = stored
    rest = [Content(items=g, names=n, shared=s) for g, n, s in zip(groups, names, shared, strict=True)]
    first = replace(rest[0], others=content.others, versions=content.versions, facts=content.facts)
    return [first, *rest[1:]]


def _groups(items: Iterable[Item], most: int, most_header: int) -> list[list[Item]]:
    groups: list[list[Item]] = [[]]
    held = header = 0
    for item in items:
        size, cost = item.spec.nbytes, header_cost(item)
        if groups[-1] and (held + size > most or header + cost > most_header):
            groups.append([])
            held = header = 0
        groups[-1].append(item)
        held, header = held + size, header + cost
    return groups


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWriter:
    """Writes shards and their index to `path` + `.index.json`.

    `run` names the run: a shard that bears its mark is taken as it is. `goes_on` says that a second call has the same run.
    `tick` is told bytes as they are written or found.
    """

    path: str
    kind: str
    run: str
    goes_on: bool
    tick: Callable[[int], None]

    def write(self, contents: Sequence[Content]) -> Shards:
        """Write `contents`; the index comes last, so that it always names shards that are whole and belong together.

        Shards that an index names are never written over: others stand beside them until the new index is on disk.

        Raises:
            UsageError: the format can't hold something; nothing was written.
            WriteError: a file could not be written; the index, and what it names, is as it was.
        """
        folder, name = os.path.split(self.path)
        index = f"{name}.index.json"
        marked = [replace(c, mark=part(self.run, n, len(contents), index)) for n, c in enumerate(contents, 1)]
        for content in marked:
            content.check(self.kind)
        with only_writer(folder, self.path):
            before = _named_by(self._at(index))
            names = self._free_names(name, marked, before)
            sweep(folder, os.path.splitext(name)[0])
            kept = self._write_shards(names, marked)
            self._write_index(index, names, marked)
            left = self._clear(name, index, set(names), before)
        files = tuple(map(self._at, names))
        return Shards(self._at(index), files, sum(map(os.path.getsize, files)), kept, left)

    def _write_shards(self, names: Sequence[str], contents: Sequence[Content]) -> int:
        """Write all shards; return how many stood there already."""
        kept = 0
        for number, (name, content) in enumerate(zip(names, contents, strict=True)):
            try:
                kept += self._write_shard(name, content)
            except WriteError as error:
                stays = f"{number} of {len(names)} shards stay{'s' * (number == 1)} there"
                then = (
                    "the same call goes on with the rest"
                    if self.goes_on
                    else "the next call to this place writes over them"
                )
                raise WriteError(f"{error}; {stays}, {then}" if number else str(error)) from error
        return kept

    def _write_shard(self, name: str, content: Content) -> bool:
        """Write one shard; return True where it stands there already."""
        path = self._at(name)
        if os.path.lexists(path) and mark_of(path) == content.mark:
            self.tick(content.nbytes)
            return True
        content.write(path, self.kind, self.tick)
        return False

    def _at(self, name: str) -> str:
        return os.path.join(os.path.dirname(self.path), name)

    def _free_names(self, name: str, contents: Sequence[Content], before: frozenset[str]) -> list[str]:
        """Return names for the shards that no index needs: those of transformers, else with a number before them."""
        stem, ending = os.path.splitext(name)
        total = len(contents)
        for attempt in count(1):
            more = f"-{attempt}" if attempt > 1 else ""
            names = [f"{stem}{more}-{number:05d}-of-{total:05d}{ending}" for number in range(1, total + 1)]
            if all(self._is_free(n, c.mark, before) for n, c in zip(names, contents, strict=True)):
                break
        return names

    def _is_free(self, name: str, mark: str, before: frozenset[str]) -> bool:
        """Whether nothing stands there, or the very shard of an earlier try, or one whose run never came to its end."""
        if not os.path.lexists(self._at(name)):
            return True
        found = mark_of(self._at(name))
        return found == mark or (_index_of(found) == _index_of(mark) and name not in before)

    def _write_index(self, index: str, names: Sequence[str], contents: Sequence[Content]) -> None:
        places: dict[str, str] = {}
        for shard, content in zip(names, contents, strict=True):
            held = [i.name for i in content.items] if self.kind == SAFETENSORS else content.names
            places |= {name: shard for name in held if name not in content.others}
        facts = {"total_size": sum(content.nbytes for content in contents)}
        text = json.dumps({"metadata": facts, "weight_map": places}, indent=2, ensure_ascii=False)
        write_bytes(self._at(index), (text + "\n").encode())

    def _clear(self, name: str, index: str, names: set[str], before: frozenset[str]) -> tuple[str, ...]:
        """Remove shards of earlier runs of ours to the same place; say which of the old index's stay, being another's."""
        pattern = _shards_of(name)
        folder = os.path.dirname(self.path)
        others = [n for n in os.listdir(folder or ".") if n not in names and (n in before or pattern.fullmatch(n))]
        ours = [n for n in others if _index_of(mark_of(self._at(n))) == index]
        for old in ours:
            with suppress(OSError):
                os.unlink(self._at(old))
        if ours:
            flush_folder(folder, printable(self.path))
        left = sorted(set(others) & before - set(ours))
        return (f"shards of the index before stay: {', '.join(map(printable, left[:3]))}",) if left else ()


def may_replace(path: str, other: str) -> bool:
    """Return whether shards written to `path` might take the place of the file `other`, or have it removed as an old one."""
    folder, name = os.path.split(os.path.realpath(path))
    beside = os.path.dirname(os.path.realpath(other)) == folder
    return beside and _shards_of(name).fullmatch(os.path.basename(other)) is not None


def _shards_of(name: str) -> re.Pattern[str]:
    """Return what the names of the shards of a file look like."""
    stem, ending = map(re.escape, os.path.splitext(name))
    return re.compile(rf"{stem}(-\d+)?-\d{{5}}-of-\d{{5}}{ending}", re.DOTALL)


def _index_of(mark: str) -> str:
    return mark.split(" ", 2)[2] if mark.count(" ") >= 2 else ""


def _named_by(index: str) -> frozenset[str]:
    """Return the files that the index at this place names; none where there is no index, or a broken one."""
    with suppress(OSError, ValueError, RecursionError):
        with open(index, encoding="utf-8") as file:
            found = json.load(file)
        places = found.get("weight_map") if isinstance(found, dict) else None
        if isinstance(places, dict):
            return frozenset(v for v in places.values() if isinstance(v, str))
    return frozenset()


def mark_of(path: str) -> str:
    """Return the mark of a shard that torchgraft wrote; empty for any other file, and where there is none."""
    with suppress(OSError, ValueError, RecursionError, KeyError, zipfile.BadZipFile, NotImplementedError):
        notes = _notes(path)
        found = notes.get(PART) if isinstance(notes, dict) else None
        return found if isinstance(found, str) else ""
    return ""


def _notes(path: str) -> object:
    """Return the metadata of a safetensors file, or the record of a torch file that it would stand in."""
    with open(path, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if not head.startswith(b"PK"):
            return json.loads(file.read(length))["__metadata__"] if length <= MAX_HEADER else None
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo(f"{ROOT}/{NOTES}")
        return json.loads(archive.read(record)) if record.file_size <= MAX_HEADER else None
