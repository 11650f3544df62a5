"""Plans, reports, inspections and diffs for people (text, terminal, HTML) and for programs (JSON)."""

from torchgraft.reporting.conversions import conversion_text, conversion_view
from torchgraft.reporting.html import plan_html, report_html
from torchgraft.reporting.json import plan_to_dict, report_to_dict
from torchgraft.reporting.json_others import diff_to_dict, inspection_to_dict, saved_to_dict
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

__all__ = [
    "conversion_text",
    "conversion_view",
    "diff_text",
    "diff_to_dict",
    "diff_view",
    "hyperparameters_text",
    "hyperparameters_to_dict",
    "hyperparameters_view",
    "inspect_text",
    "inspection_to_dict",
    "inspection_view",
    "plan_html",
    "plan_text",
    "plan_to_dict",
    "plan_view",
    "report_html",
    "report_text",
    "report_to_dict",
    "report_view",
    "saved_text",
    "saved_to_dict",
    "saved_view",
    "verification_text",
    "verification_to_dict",
    "verification_view",
    "view_renderable",
]
