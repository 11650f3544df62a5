"""Checkpoints in several files: an index that says which key lies where, numbered shards, or ranks of one model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from math import prod
from typing import Any

from torchgraft.core.errors import (
    CorruptCheckpointError,
    LimitExceededError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
    printable,
)
from torchgraft.core.facts import PART, merged, run_of
from torchgraft.core.formatting import counted
from torchgraft.core.names import natural_key
from torchgraft.reading.containers.strict_json import loads
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import CheckpointFile, shown
from torchgraft.reading.disk.paths import OpenFiles, name_fault
from torchgraft.reading.finding.catalog import catalogue
from torchgraft.reading.sniff import read_file
from torchgraft.reading.tensors import StoredTensor

MAX_INDEX = 128 << 20
MAX_SHARDS = 10_000
INDEX = ".index.json"
# What Megatron-LM and DeepSpeed call the ranks of tensor parallelism, and what Meta's Llama does.
_RANK = re.compile(r"mp_rank_(\d+)|consolidated\.(\d{2})\.(?:pth|pt)")
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin|pt|pth)")


def read_index(file: CheckpointFile, opened: OpenFiles) -> Contents:
    """Return the tensors that an index.json places into shards beside it."""
    label = str(file)
    window = file.window()
    if window.size > MAX_INDEX:
        raise LimitExceededError(
            f"{label}: an index of {window.size} bytes; those of a million keys have a tenth of {MAX_INDEX}"
        )
    if not window.size:
        raise window.corrupt("empty file (0 bytes), expected JSON with a weight_map")
    index = loads(window.read(0, window.size), label)
    promised = file.path.endswith(INDEX) or (isinstance(index, dict) and "weight_map" in index)
    if not promised:
        raise UnsupportedCheckpointError(
            f"{label}: a JSON file without weight_map: neither a checkpoint nor an index of one"
        )
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise CorruptCheckpointError(f"{label}: weight_map is missing, or no table of names of keys and files")
    names = list(dict.fromkeys(places.values()))
    for name in names:
        if fault := name_fault(name):
            raise UnsafeCheckpointError(
                f"{label}: weight_map names the shard {printable(name)!r}: {fault}; expected a file beside it"
            )
    if os.path.basename(file.path) in names:
        raise CorruptCheckpointError(f"{label}: weight_map names the index itself as a shard")
    folder = file.folder(names[0] if names else "shards")
    where: dict[str, str] = {}
    out = _gathered(folder, names, opened, where)
    _compare(label, places, where, out)
    facts = index.get("metadata")
    _check_total(facts, out)
    out.metadata.update({k: v for k, v in facts.items() if k != "total_size"} if isinstance(facts, dict) else {})
    return out


def shard_names(names: list[str]) -> list[str]:
    """Return the numbered shards among `names`, of the first set only."""
    found = [m for m in map(_NUMBERED.fullmatch, names) if m]
    return [m[0] for m in found if (m[1], m[3], m[4]) == (found[0][1], found[0][3], found[0][4])]


def shards_told(name: str) -> int:
    """Return of how many shards a file is one by its name, 0 where it says nothing of it."""
    found = _NUMBERED.fullmatch(name)
    return int(found[3]) if found else 0


def read_shards(folder: str, names: list[str], opened: OpenFiles) -> Contents:
    """Return the tensors of numbered shards without an index; all of them must be there."""
    match = _NUMBERED.fullmatch(names[0])
    count = int(match[3]) if match else 0
    wanted = [re.sub(r"-\d{5}-of-", f"-{i:05d}-of-", names[0]) for i in range(1, min(count, MAX_SHARDS) + 1)]
    if not count:
        raise CorruptCheckpointError(f"{shown(folder)}: {names[0]} says that it is one of no shards")
    missing = [n for n in wanted if n not in names]
    if missing:
        raise CorruptCheckpointError(
            f"{shown(folder)}: shard {missing[0]} is missing; {len(names)} of {count} are there"
        )
    out = _gathered(folder, wanted, opened, {})
    others = [n for n in sorted(os.listdir(folder)) if _NUMBERED.fullmatch(n) and n not in wanted]
    if others:
        out.warnings.append(f"the folder holds shards of other names, which are not read, as {printable(others[0])}")
    return out


def rank_names(names: Iterable[str]) -> list[str]:
    """Return the tensor-parallel ranks among `names`; a single file of Llama's is no rank, but the whole model."""
    found = [name for name in names if _RANK.match(name)]
    return found if len(found) > 1 or any(name.startswith("mp_rank_") for name in found) else []


def read_ranks(folder: str, names: list[str], opened: OpenFiles) -> Contents:
    """Return one network per tensor-parallel rank: rank0, rank1 ..."""
    tree: dict[str, Any] = {}
    out = Contents(format="tensor-parallel ranks", tree=tree)
    numbers = {int(found[1] or found[2]): name for name in names if (found := _RANK.match(name))}
    missing = next((number for number in range(max(numbers, default=0)) if number not in numbers), None)
    if missing is not None:
        called = re.sub(r"\d+", f"{missing:02d}", numbers[max(numbers)], count=1)
        raise CorruptCheckpointError(f"{shown(folder)}: rank {missing} ({called}) is missing")
    for number, name in enumerate(sorted(names, key=natural_key)):
        inner = os.path.join(folder, name)
        if os.path.isdir(inner):
            listed = sorted(os.listdir(inner))
            held = [n for n in listed if n.endswith((".pt", ".pth", ".bin")) and "optim_states" not in n]
            preferred = [n for n in ("model_optim_rng.pt", "model_rng.pt") if n in held] or held
            if not preferred:
                raise CorruptCheckpointError(f"{shown(inner)}: the checkpoint of this rank is missing")
            name = f"{name}/{preferred[0]}"  # noqa: PLW2901
        tensors, contents = _networks(folder, name, opened)
        out.warnings += contents.warnings
        tree[f"rank{number}"] = tensors
    return out


def _networks(folder: str, name: str, opened: OpenFiles) -> tuple[dict[str, StoredTensor], Contents]:
    """Return the model's tensors of one file of several."""
    file = opened.inside(folder, name)
    contents = read_file(file.window())
    found = catalogue(contents, str(file))
    contents.metadata = found.metadata
    weights = [n for n in found.networks if n.role == "model"] or list(found.networks)
    return found.tensors[weights[0].path], contents


def _gathered(folder: str, names: list[str], opened: OpenFiles, where: dict[str, str]) -> Contents:
    """Return the tensors of all shards; `where` gets the shard of each key."""
    tree: dict[str, StoredTensor] = {}
    out = Contents(format="shards", tree=tree)
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.lexists(path):
            raise CorruptCheckpointError(f"{shown(path)}: shard {name} is missing")
        tensors, contents = _networks(folder, name, opened)
        out.format = f"{contents.format} shards"
        out.warnings += contents.warnings
        runs = run_of(out.metadata.get(PART)), run_of(contents.metadata.get(PART))
        if all(runs) and runs[0] != runs[1]:
            raise CorruptCheckpointError(
                f"{shown(path)}: shard {name} and those before it were written by two different runs; write them again"
            )
        out.metadata = merged(out.metadata, contents.metadata)
        for key, tensor in tensors.items():
            if key in tree:
                raise CorruptCheckpointError(
                    f"{shown(path)}: key {printable(key)} is in two shards, {where[key]} and {name}"
                )
            tree[key], where[key] = tensor, name
    out.metadata["shards"] = names
    return out


def _compare(label: str, places: dict[str, str], where: dict[str, str], out: Contents) -> None:
    missing = [k for k in places if k not in out.tree]
    if missing:
        raise CorruptCheckpointError(
            f"{label}: {counted(len(missing), 'key')} of the index missing in the shards, as {printable(missing[0])} in "
            f"{places[missing[0]]}"
        )
    moved = [k for k, name in places.items() if where[k] != name]
    if moved:
        raise CorruptCheckpointError(
            f"{label}: {counted(len(moved), 'key')} in another shard than it says, as {printable(moved[0])} in "
            f"{where[moved[0]]}, not in {places[moved[0]]}"
        )
    extra = [k for k in out.tree if k not in places]
    if extra:
        out.warnings.append(f"{counted(len(extra), 'key')} of the shards not in the index, as {printable(extra[0])}")


def _check_total(facts: Any, out: Contents) -> None:
    """Warn where the index gives another sum of bytes; of tied tensors some programs count one, some all."""
    total = facts.get("total_size") if isinstance(facts, dict) else None
    found = once = 0
    seen = set()
    for tensor in out.tree.values():
        count = tensor.dtype.itemsize * prod(tensor.shape)
        found += count
        once += count if tensor.identity not in seen else 0
        seen.add(tensor.identity)
    if total is not None and total not in (found, once):
        out.warnings.append(f"the index gives a total_size of {total!r:.30} bytes, the shards hold {found}")
