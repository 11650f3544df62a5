"""Results on stdout: a view for a terminal, plain text for a pipe, JSON on request; pages into files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torchgraft.core.errors import WriteError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchgraft.cli.options import Shown
    from torchgraft.reporting.view import View


def show(view: Callable[[], View], data: Callable[[], dict[str, Any]], how: Shown, usual: int) -> None:
    """Print JSON, or a view: with colours and wrapped where stdout is a terminal, else plain, one fact a line."""
    if how.as_json:
        click.echo(json.dumps(data(), indent=2, allow_nan=False))
        return
    most = how.lines or usual
    if sys.stdout.isatty():
        from rich.console import Console

        from torchgraft.reporting.terminal import view_renderable

        Console(highlight=False, markup=False, emoji=False).print(view_renderable(view(), most_lines=most))
        return
    from torchgraft.reporting.text import view_text

    click.echo(view_text(view(), most_lines=most))


def write_page(path: str, page: str) -> None:
    """Write an HTML page.

    Raises:
        WriteError: it can't be written.
    """
    try:
        Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise WriteError(f"{printable(path)}: {error.strerror or error}") from error
