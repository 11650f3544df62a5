"""Our own files: JSON that is read as data, of bounded size."""

from __future__ import annotations

import json
import os
from typing import Any

from torchgraft.core.errors import CheckpointError, UsageError, printable


def read_json(path: str | os.PathLike[str], largest: int, noun: str) -> Any:
    """Return the data in the JSON file at `path`, which should be a `noun` ("plan") of at most `largest` bytes.

    Raises:
        CheckpointError: there is no such file, or it is too large.
        UsageError: it is no JSON.
    """
    shown = printable(os.fsdecode(path))
    try:
        if os.path.getsize(path) > largest:
            raise CheckpointError(f"{shown} has more than {largest >> 20} MiB, which no {noun} needs")
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise CheckpointError(f"{shown} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown} is no {noun}: it is no JSON ({error})") from error
