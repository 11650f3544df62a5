"""Results for people (text, terminal, HTML) and for programs (JSON).

What shows a result is imported when it is shown: most loads are never shown in all these ways.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchgraft.core.shown import Renderers
from torchgraft.core.system.fast_objects import collector_paused

if TYPE_CHECKING:
    from torchgraft.reporting.view import View

# The module that makes the view of each kind of result, and how many lines a section of it has at most.
_VIEWS = {
    "plan": ("plan_views", 24), "report": ("plan_views", 24), "inspection": ("checkpoint_views", 60),
    "diff": ("checkpoint_views", 60), "saved": ("checkpoint_views", 60), "conversion": ("checkpoint_views", 60),
    "verification": ("verification_views", 24), "hyperparameters": ("verification_views", 24),
}  # fmt: skip
_WITH_PAGE = ("plan", "report")

__all__ = ["data_of", "default_lines", "line_of", "page_of", "renderers", "text_of", "view_of"]


def view_of(kind: str, result: object) -> View:
    """Return the view of a result: its content, in whichever form it is shown."""
    made: View = getattr(import_module(f"torchgraft.reporting.{_VIEWS[kind][0]}"), f"{kind}_view")(result)
    return made


def default_lines(kind: str) -> int:
    """Return how many lines a section has at most by default."""
    return _VIEWS[kind][1]


def text_of(kind: str, result: object, *, most_lines: int | None = None) -> str:
    """Return a result as text; a section longer than `most_lines` is cut short, and says by how much."""
    from torchgraft.reporting.text import view_text

    with collector_paused():
        return view_text(view_of(kind, result), most_lines=most_lines or default_lines(kind))


def line_of(kind: str, result: object) -> str:
    """Return the first line of the text; that of a plan or a report without making all the rest."""
    if kind not in _WITH_PAGE:
        return text_of(kind, result).partition("\n")[0]
    from torchgraft.reporting import plan_views

    made: str = getattr(plan_views, f"{kind}_verdict")(result)
    return made


def data_of(kind: str, result: object) -> dict[str, Any]:
    """Return a result as data that `json.dumps` takes as it is."""
    from torchgraft.reporting import json

    made: dict[str, Any] = getattr(json, f"{kind}_to_dict")(result)
    return made


def page_of(kind: str, result: object) -> str:
    """Return a plan or a report as an HTML page that needs nothing else."""
    from torchgraft.reporting.html import page

    plan: Any = getattr(result, "plan", result)  # that of a report
    return page(view_of(kind, result), plan)


def renderers(kind: str) -> Renderers:
    """Return what shows results of this kind. It can be pickled, as plans are that processes share."""
    page = partial(page_of, kind) if kind in _WITH_PAGE else None
    return Renderers(partial(text_of, kind), partial(line_of, kind), partial(data_of, kind), page)
