"""Results on stdout: a view for a terminal, plain text for a pipe, JSON on request; pages into files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchgraft.cli.options import Shown
    from torchgraft.reporting.view import View

_ITEMS = 1000


def show(view: Callable[[], View], data: Callable[[], dict[str, Any]], how: Shown, usual: int) -> None:
    """Print JSON, or a view: with colours and wrapped where stdout is a terminal, else plain, one fact a line.

    In `data`, an iterator stands for a long list: its items are printed one by one, each in a line.
    """
    if how.as_json:
        for piece in _json(data()):
            click.echo(piece, nl=False)
        return
    most = how.lines or usual
    if sys.stdout.isatty():
        from rich.console import Console

        from torchgraft.reporting.terminal import view_renderable

        Console(highlight=False, markup=False, emoji=False).print(view_renderable(view(), most_lines=most))
        return
    from torchgraft.reporting.text import view_text

    click.echo(view_text(view(), most_lines=most))


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


def write_page(path: str, page: str) -> None:
    """Write an HTML page, whole or not at all.

    Raises:
        WriteError: it can't be written.
    """
    from torchgraft.writing import write_bytes

    write_bytes(path, page.encode("utf-8", "backslashreplace"))
