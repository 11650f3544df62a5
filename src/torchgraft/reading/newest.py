"""Folders that a trainer keeps its checkpoints in: which one its own file calls the newest, or which ones there are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing

from torchgraft.core.errors import CorruptCheckpointError, UnsupportedCheckpointError, printable
from torchgraft.reading.disk.files import shown
from torchgraft.reading.disk.paths import open_inside

# Files that name the newest checkpoint beside them, and what its folder is called: DeepSpeed's, and that of Megatron-LM, which
# holds a number of iterations or the word `release`.
_POINTERS = {"latest": "", "latest_checkpointed_iteration.txt": "iter_"}
_MOST_BYTES = 200
# What DeepSpeed calls the files of stage 3, in which every process has a part of each tensor.
_SHARES = re.compile(r"(?:bf16_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt")
_MOST_FOLDERS = 200
_MOST_NAMED = 6


def pointer_in(folder: str, names: Sequence[str]) -> str:
    """Return the file of a folder that names the newest of the checkpoints in it; nothing where there is none."""
    return next((name for name in _POINTERS if name in names and os.path.isfile(os.path.join(folder, name))), "")


def newest(folder: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the file of a folder that names the newest of the checkpoints in it, and the folder that it names.

    Both are empty where there is no such file.

    Raises:
        CorruptCheckpointError: the folder that it names is not there.
    """
    pointer = pointer_in(folder, names)
    if not pointer:
        return "", ""
    with closing(open_inside(folder, pointer)) as file:
        said = file.window().read(0, min(file.size, _MOST_BYTES)).decode("utf-8", "replace").strip()
    inner = f"{_POINTERS[pointer]}{int(said):07}" if _POINTERS[pointer] and said.isdecimal() else said
    path = os.path.join(folder, inner)
    if inner not in names or not os.path.isdir(path) or os.path.islink(path):
        raise CorruptCheckpointError(
            f"{shown(folder)}: {pointer} names {printable(inner)!r}, and no such folder is in it"
        )
    return pointer, inner


def refuse_shares(folder: str, names: Sequence[str]) -> None:
    """Raise UnsupportedCheckpointError for the files of ZeRO's stage 3, of which none holds a whole tensor.

    Raises:
        UnsupportedCheckpointError: saying how they are put together.
    """
    kinds = [found[1] for name in names if (found := _SHARES.fullmatch(name))]
    count = kinds.count("model")
    if count:
        raise UnsupportedCheckpointError(
            f"{shown(folder)}: shares of {count} process{'es' * (count > 1)} that trained with DeepSpeed's ZeRO stage 3, each with "
            "a part of every tensor: put them together with the zero_to_fp32.py that DeepSpeed leaves beside them, and load what "
            "it writes"
        )


def beneath(folder: str, names: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> str:
    """Return in words which folders in a folder have a checkpoint, as `holds` says of their files; nothing for none."""
    inner = [name for name in names if os.path.isdir(os.path.join(folder, name))][:_MOST_FOLDERS]
    found = tuple(name for name in inner if holds(_listed(os.path.join(folder, name))))
    more = f" and {len(found) - _MOST_NAMED} more" * (len(found) > _MOST_NAMED)
    said = ", ".join(printable(name) for name in found[:_MOST_NAMED])
    return f"; there is one in {said}{more}: name {'it' if len(found) == 1 else 'one'}" if found else ""


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
