"""Views as plain text, one fact a line: for pipes, logs and `str()`."""

from __future__ import annotations

from collections.abc import Iterator

from torchgraft.reporting.view import Group, Line, Section, View

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
        return
    yield 0, section.title + (f": {section.figures}" if section.figures else ":")
    shown = told = 0
    for group in section.groups:
        if shown >= most_lines:
            break
        for depth, text, count in _group_lines(group, most_lines - shown):
            yield depth, text
            shown += 1
            told += count
    total = sum(group.count for group in section.groups)
    if told < total:
        yield 1, f"… and {total - told} more"


def _group_lines(group: Group, room: int) -> Iterator[tuple[int, str, int]]:
    """Yield (depth, text, number of tensors told of)."""
    if not group.lines:
        yield 1, group.cause + (f" ({group.count})" if group.count > 1 else ""), group.count
        return
    if len(group.lines) == 1:
        line = group.lines[0]
        yield 1, _line(line) + ("" if _says_it(line, group.cause) else f": {group.cause}"), line.count
        yield from ((2, other, 0) for other in line.others)
        return
    yield 1, f"{group.cause}:", 0
    for line in group.lines[:room]:
        yield 2, _line(line), line.count
        yield from ((3, other, 0) for other in line.others)


def _says_it(line: Line, cause: str) -> bool:
    """Whether the cause tells no more than what stands on both sides of the line's arrow."""
    source, told, target = cause.partition(" corresponds to ")
    return bool(told) and line.source.startswith(f"{source}.") and line.text.startswith(f"{target}.")


def _line(line: Line) -> str:
    source = f" <- {line.source}" if line.source else ""
    detail = f" ({line.detail})" if line.detail else ""
    return line.text + source + detail
