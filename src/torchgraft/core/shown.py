"""How results show themselves without knowing how: the renderers are handed in by whoever builds the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.objects import a_kind


@dataclass(frozen=True, slots=True)
class Renderers:
    """Functions from a result to text, to its first line, to plain data and, where there is one, to an HTML page."""

    text: Callable[[Any], str]
    line: Callable[[Any], str]
    to_dict: Callable[[Any], dict[str, Any]]
    html: Callable[[Any], str] | None = None


class Shown:
    """A result that prints as text and gives itself as plain data or as a page; see `Renderers`."""

    __slots__ = ()
    renderers: Renderers | None

    def __str__(self) -> str:
        return self.renderers.text(self) if self.renderers else repr(self)

    def __repr__(self) -> str:
        """Return the first line of the text: what a session shows that asks for the value and doesn't print it."""
        if self.renderers is None:
            return f"<{type(self).__name__} without renderers>"
        return f"<{type(self).__name__}: {self.renderers.line(self)}; print() shows all of it>"

    def _repr_html_(self) -> str | None:
        """Return the whole text for a notebook, None where nothing can show it."""
        return f"<pre>{escape(self.renderers.text(self))}</pre>" if self.renderers else None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON; the schema is documented and versioned."""
        return self._renderers().to_dict(self)

    def to_html(self) -> str:
        """Return the result as one HTML page that needs nothing else.

        Raises:
            UsageError: results of this kind have no page.
        """
        page = self._renderers().html
        if page is None:
            raise UsageError(f"{a_kind(self)} has no HTML page")
        return page(self)

    def _renderers(self) -> Renderers:
        if self.renderers is None:
            raise UsageError(
                f"this {type(self).__name__} was built without renderers; those that torchgraft returns have them"
            )
        return self.renderers
