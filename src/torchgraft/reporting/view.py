"""What all renderings show: a verdict and sections of folded lines, grouped by cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchgraft.core.errors import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A pattern of names and what is said of all of them; stands for `count` tensors."""

    text: str
    source: str = ""
    detail: str = ""
    others: tuple[str, ...] = ()
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Lines of one cause; without lines, the cause says it all, and `remedy` what settles it."""

    cause: str
    remedy: str = ""
    lines: tuple[Line, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a view. `tone` is `bad`, `care`, `good` or `plain`; `count` tensors, notes have none."""

    title: str
    tone: str = "plain"
    figures: str = ""
    groups: tuple[Group, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The whole of a plan or a report, ready to be printed."""

    verdict: str
    tone: str
    origin: str
    sections: tuple[Section, ...]


def non_empty(*sections: Section | None) -> tuple[Section, ...]:
    """Return the sections that have content."""
    return tuple(section for section in sections if section is not None and section.groups)


def remark_section(title: str, remarks: Iterable[str], tone: str = "plain") -> Section:
    """Return plain remarks."""
    return Section(title=title, tone=tone, groups=tuple(Group(cause=printable(text, 2000)) for text in remarks))
