"""Views as plain text, one fact a line, for pipes, logs and `str()`; and on a terminal, with colours by meaning.

rich is imported late, and only here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torchgraft.reporting.view import Group, Line, Section, View

if TYPE_CHECKING:
    from rich.console import Group as Blocks
    from rich.console import RenderableType
    from rich.text import Text


MOST_LINES = 24


def view_text(view: View, *, most_lines: int = MOST_LINES) -> str:
    """Return a view as text: the verdict is the first line."""
    lines = [view.verdict, *([view.origin] if view.origin else [])]
    for section in view.sections:
        lines.extend("  " * depth + text for depth, text in section_lines(section, most_lines))
    return "\n".join(lines)


def section_lines(section: Section, most_lines: int) -> Iterator[tuple[int, str]]:
    """Yield (depth, text) of a section, its head first; remarks on one line each."""
    only = section.groups[0] if len(section.groups) == 1 else None
    if only and not only.lines and not section.figures:
        yield 0, f"{section.title}: {only.cause}"
        if only.remedy:
            yield 1, only.remedy
        return
    yield 0, section.title + (f": {section.figures}" if section.figures else ":")
    shown = covered = 0
    for group in section.groups:
        if shown >= most_lines:
            break
        for depth, text, count in _group_lines(group, most_lines - shown):
            yield depth, text
            shown += 1
            covered += count
    total = sum(group.count for group in section.groups)
    if covered < total:
        yield 1, f"… and {total - covered} more"


def _group_lines(group: Group, room: int) -> Iterator[tuple[int, str, int]]:
    """Yield (depth, text, number of tensors that it covers)."""
    if not group.lines:
        yield 1, group.cause + (f" ({group.count})" if group.count > 1 else ""), group.count
        if group.remedy:
            yield 2, group.remedy, 0
        return
    if len(group.lines) == 1:
        line = group.lines[0]
        yield 1, _line(line) + ("" if _repeats_line(line, group.cause) else f": {group.cause}"), line.count
        yield from ((2, other, 0) for other in line.others)
        return
    yield 1, f"{group.cause}:", 0
    for line in group.lines[:room]:
        yield 2, _line(line), line.count
        yield from ((3, other, 0) for other in line.others)


def _repeats_line(line: Line, cause: str) -> bool:
    """Whether the cause tells no more than what stands on both sides of the line's arrow."""
    source, separator, target = cause.partition(" corresponds to ")
    return bool(separator) and _is_in(line.source, source) and _is_in(line.text, target)


def _is_in(name: str, place: str) -> bool:
    return f"{name} ".startswith((f"{place}.", f"{place} "))


def _line(line: Line) -> str:
    source = f" <- {line.source}" if line.source else ""
    detail = f" ({line.detail})" if line.detail else ""
    return line.text + source + detail


_STYLES = {"bad": "bold red", "care": "yellow", "good": "green", "plain": "default"}


def view_renderable(view: View, *, most_lines: int = MOST_LINES) -> Blocks:
    """Return a view as something that a rich console prints at any width."""
    from rich.console import Group as Blocks

    return Blocks(*_blocks(view, most_lines))


def _blocks(view: View, most_lines: int) -> Iterator[RenderableType]:
    head, colon, figures = view.verdict.partition(": ")
    yield _styled(head, f"bold {_STYLES[view.tone].removeprefix('bold ')}").append(colon + figures)
    if view.origin:
        yield _styled(view.origin, "dim")
    for section in view.sections:
        yield from _section(section, most_lines)


def _section(section: Section, most_lines: int) -> Iterator[RenderableType]:
    from rich.padding import Padding

    for depth, text in section_lines(section, most_lines):
        if depth == 0:
            head, colon, figures = text.partition(":")
            yield _styled(head, _STYLES[section.tone]).append(colon + figures)
            continue
        yield Padding(_coloured(text), (0, 0, 0, 2 * depth), expand=False)


def _coloured(text: str) -> Text:
    """Return one line; what stands after an arrow is dimmed."""
    name, arrow, source = text.partition(" <- ")
    line = _styled(name, "default")
    return line.append(arrow, "dim").append(source, "cyan") if arrow else line


def _styled(text: str, style: str) -> Text:
    """Return text as it is: nothing in a name is markup."""
    from rich.text import Text

    return Text(overflow="fold").append(text, style)
