"""Our own files: JSON that is read as data, of bounded size, and checked field by field."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import CheckpointError, MissingFileError, UsageError, printable
from torchgraft.core.specs import TensorSpec


def read_json(path: str | os.PathLike[str], largest: int, noun: str) -> Any:
    """Return the data in the JSON file at `path`, which should be a `noun` ("plan") of at most `largest` bytes.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it can't be read, or is too large.
        UsageError: it is no JSON.
    """
    shown = printable(os.fsdecode(path))
    try:
        if os.path.getsize(path) > largest:
            raise CheckpointError(f"{shown} has more than {largest >> 20} MiB, which no {noun} needs")
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise MissingFileError(f"{shown}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{shown} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown} is no {noun}: it is no JSON ({error})") from error


@contextmanager
def naming_the_file(shown: str, noun: str) -> Iterator[None]:
    """Say of whatever goes wrong with the data of the file `shown` that it is a broken `noun`.

    Raises:
        UsageError: a field is missing, or holds something else than it should.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{shown} is a broken {noun}: {printable(said, 300)}") from error


def rows(data: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list at `key`; refuse anything else (UsageError, KeyError)."""
    found = data[key]
    if not isinstance(found, list):
        raise UsageError(f"{key!r} should be a list, not {found!r:.80}")
    return found


def text(value: object) -> str:
    """Return a text; refuse anything else (UsageError)."""
    if not isinstance(value, str):
        raise UsageError(f"a text is expected, not {value!r:.80}")
    return value


def texts(values: object) -> tuple[str, ...]:
    """Return a list of texts; refuse anything else (UsageError)."""
    return tuple(map(text, rows({"texts": values}, "texts")))


def read_spec(name: object, item: Mapping[str, Any]) -> TensorSpec:
    """Return the tensor called `name` of the shape and type in `item`; refuse what is none (UsageError, KeyError)."""
    shape = item["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise UsageError(f"{name} has the shape {shape!r:.80}, expected whole numbers from 0 on")
    return TensorSpec(text(name), tuple(shape), DType.of(text(item["dtype"])))
