"""Views on a terminal: colours by meaning, lines that wrap under themselves. rich is imported only here, and late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torchgraft.reporting.text import MOST_LINES, section_lines
from torchgraft.reporting.view import Section, View

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

_STYLES = {"bad": "bold red", "care": "yellow", "good": "green", "plain": "default"}


def view_renderable(view: View, *, most_lines: int = MOST_LINES) -> Group:
    """Return a view as something that a rich console prints at any width."""
    from rich.console import Group

    return Group(*_blocks(view, most_lines))


def _blocks(view: View, most_lines: int) -> Iterator[RenderableType]:
    head, colon, figures = view.verdict.partition(": ")
    yield _plain(head, f"bold {_STYLES[view.tone].removeprefix('bold ')}").append(colon + figures)
    if view.origin:
        yield _plain(view.origin, "dim")
    for section in view.sections:
        yield from _section(section, most_lines)


def _section(section: Section, most_lines: int) -> Iterator[RenderableType]:
    from rich.padding import Padding

    for depth, text in section_lines(section, most_lines):
        if depth == 0:
            head, colon, figures = text.partition(":")
            yield _plain(head, _STYLES[section.tone]).append(colon + figures)
            continue
        yield Padding(_line(text), (0, 0, 0, 2 * depth), expand=False)


def _line(text: str) -> Text:
    """Return one line; what stands after an arrow is dimmed."""
    name, arrow, source = text.partition(" <- ")
    line = _plain(name, "default")
    return line.append(arrow, "dim").append(source, "cyan") if arrow else line


def _plain(text: str, style: str) -> Text:
    """Return text as it is: nothing in a name is markup."""
    from rich.text import Text

    return Text(overflow="fold").append(text, style)
