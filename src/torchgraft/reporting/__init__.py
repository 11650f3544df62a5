"""Plans, reports, inspections and diffs for people (text, terminal, HTML) and for programs (JSON).

Names are imported on first use: most loads are never shown in all these ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchgraft.reporting.conversions import conversion_text, conversion_view
    from torchgraft.reporting.html import plan_html, report_html
    from torchgraft.reporting.json import plan_to_dict, report_to_dict
    from torchgraft.reporting.json_others import (
        diff_to_dict,
        inspection_in_turn,
        inspection_to_dict,
        saved_to_dict,
    )
    from torchgraft.reporting.others import diff_text, diff_view, inspect_text, inspection_view, saved_text, saved_view
    from torchgraft.reporting.terminal import view_renderable
    from torchgraft.reporting.text import plan_text, report_text
    from torchgraft.reporting.verification import (
        hyperparameters_text,
        hyperparameters_to_dict,
        hyperparameters_view,
        verification_text,
        verification_to_dict,
        verification_view,
    )
    from torchgraft.reporting.views import plan_view, report_view

_HOMES = {
    **dict.fromkeys(("conversion_text", "conversion_view"), "conversions"),
    **dict.fromkeys(("plan_html", "report_html"), "html"),
    **dict.fromkeys(("plan_to_dict", "report_to_dict"), "json"),
    **dict.fromkeys(("diff_to_dict", "inspection_in_turn", "inspection_to_dict", "saved_to_dict"), "json_others"),
    **dict.fromkeys(
        ("diff_text", "diff_view", "inspect_text", "inspection_view", "saved_text", "saved_view"), "others"
    ),
    "view_renderable": "terminal",
    **dict.fromkeys(("plan_text", "report_text"), "text"),
    **dict.fromkeys(
        (
            "hyperparameters_text", "hyperparameters_to_dict", "hyperparameters_view",
            "verification_text", "verification_to_dict", "verification_view",
        ),
        "verification",
    ),
    **dict.fromkeys(("plan_view", "report_view"), "views"),
}  # fmt: skip

__all__ = [
    "conversion_text", "conversion_view", "diff_text", "diff_to_dict", "diff_view", "hyperparameters_text",
    "hyperparameters_to_dict", "hyperparameters_view", "inspect_text", "inspection_in_turn", "inspection_to_dict",
    "inspection_view", "plan_html", "plan_text", "plan_to_dict", "plan_view", "report_html", "report_text",
    "report_to_dict", "report_view", "saved_text", "saved_to_dict", "saved_view", "verification_text",
    "verification_to_dict", "verification_view", "view_renderable",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'torchgraft.reporting' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"torchgraft.reporting.{home}"), name)
    globals()[name] = value
    return value
