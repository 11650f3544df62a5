"""Results on stdout, progress on stderr, pages into files; and what is asked before anything is written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import islice
from typing import Any, TextIO

import click

from torchgraft.cli.keywords import view_as_typed
from torchgraft.cli.options import Shown
from torchgraft.core.errors import TorchgraftError, UsageError, WriteError, printable
from torchgraft.core.system.commit import cause_of

_ITEMS = 1000


def show(kind: str, result: Any, how: Shown, data: Callable[[], dict[str, Any]] | None = None) -> None:
    """Print a result as JSON, or as a view: with colours and wrapped where stdout is a terminal, else plain, one fact a line.

    In `data`, which else is the result's own, an iterator stands for a long list: its items are printed one by one, each
    in a line.
    """
    if how.as_json:
        for piece in _json((data or result.to_dict)()):
            say(piece, end="")
        return
    from torchgraft.reporting import default_lines, view_of

    view, most = view_as_typed(view_of(kind, result)), how.lines or default_lines(kind)
    if watched(sys.stdout):
        from rich.console import Console

        from torchgraft.reporting.text import view_renderable

        Console(highlight=False, markup=False, emoji=False).print(view_renderable(view, most_lines=most))
        return
    from torchgraft.reporting.text import view_text

    say(view_text(view, most_lines=most))


_UNSHOWN = "the result can't be printed: {}; files that were asked for are written"


def say(text: str, *, end: str = "\n", err: bool = False) -> None:
    """Print a text to stdout, or to stderr.

    Raises:
        WriteError: it can't be written, as into a file on a full disk, or where stdout was closed ahead (`>&-`). A pipe that
            was closed is the shell's business.
    """
    if sys.stdout is None and not err:
        raise WriteError(_UNSHOWN.format("standard output is closed"))
    try:
        click.echo(text + end, nl=False, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up(sys.stderr if err else sys.stdout)
        raise WriteError(_UNSHOWN.format(cause_of(error))) from error


def _give_up(stream: TextIO) -> None:
    """Let go of what can't be written: else Python tries again when it ends, says so, and ends with a code of its own."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _json(data: dict[str, Any]) -> Iterator[str]:
    """Yield `data` as indented JSON, in pieces of a bounded size where iterators stand for lists."""
    item = json.JSONEncoder(allow_nan=False).encode
    before = "{"
    for key, value in data.items():
        yield f"{before}\n  {item(key)}: "
        before = ","
        if not isinstance(value, Iterator):
            yield json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n  ")  # no text has a line break in it
            continue
        gap = "["
        while items := list(islice(value, _ITEMS)):
            yield f"{gap}\n    " + ",\n    ".join(map(item, items))
            gap = ","
        yield "[]" if gap == "[" else "\n  ]"
    yield "\n}\n"


def check_outputs(outputs: Mapping[str, str | None], inputs: Sequence[str | None], shards: str | None = None) -> None:
    """Refuse before the work what would write over what is read, or over another output, or can't be written after it.

    `outputs` is path by option, None where not given; `shards` is the output that becomes several files. Of an output that
    exists and lies in a folder that is read, each file of the checkpoint is asked for.

    Raises:
        UsageError: two of the paths are one, naming the option.
        WriteError: as when it is written.
    """
    from torchgraft import writing

    given = {option: os.path.realpath(path) for option, path in outputs.items() if path is not None}
    read = {os.path.realpath(path) for path in inputs if path}
    for option, place in given.items():
        if place in read or (os.path.exists(place) and place in _parts(read)):
            raise UsageError(
                f"{option} {printable(outputs[option] or '')} is read by this very command: choose another file"
            )
    if shards is not None:
        hit = next((path for path in (*read, *_parts(read)) if writing.may_replace(shards, path)), None)
        if hit is not None:
            raise UsageError(
                f"{printable(hit)} is read, and may be replaced by shards of {printable(shards)}: choose another file"
            )
    if len(set(given.values())) < len(given):
        raise UsageError(f"{' and '.join(given)} name the same file: choose another for one of them")
    for path in outputs.values():
        if path is not None:
            writing.expect_writable(path)


def _parts(read: Iterable[str]) -> set[str]:
    """Return the files of the checkpoints among `read` that consist of several."""
    from torchgraft.reading import open_checkpoint

    found: set[str] = set()
    for path in read:
        if os.path.isdir(path) or path.endswith(".json"):
            with suppress(TorchgraftError), open_checkpoint(path) as source:
                found |= set(source.stamps)
    return found


def write_page(path: str | None, result: Any) -> None:
    """Write a result as an HTML page, whole or not at all, where a path is given.

    Raises:
        WriteError: it can't be written.
    """
    if path is not None:
        from torchgraft.writing import write_bytes

        write_bytes(path, result.to_html().encode("utf-8", "backslashreplace"))


def watched(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; one that was closed before the program began is None."""
    return stream is not None and stream.isatty()


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show that work is going on, where somebody watches. What the model's code prints meanwhile goes to stderr."""
    if not watched(sys.stderr):
        with redirect_stdout(sys.stderr):
            yield
        return
    from rich.console import Console
    from rich.text import Text

    with redirect_stdout(sys.stderr), Console(stderr=True).status(Text(printable(what))):
        yield


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function of bytes done and in all that moves a bar on stderr; None where nobody watches.

    What the model's code prints meanwhile goes to stderr.
    """
    if not watched(sys.stderr):
        with redirect_stdout(sys.stderr):
            yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with redirect_stdout(sys.stderr), Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(printable(what)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
