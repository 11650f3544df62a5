"""Renderers of plans and reports that import what they need once something is shown: loading needs none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchgraft.core.shown import Renderers

if TYPE_CHECKING:
    from torchgraft.core.plan import Plan
    from torchgraft.core.report import Report


def _plan_text(plan: Plan) -> str:
    from torchgraft.reporting.text import plan_text

    return plan_text(plan)


def _plan_to_dict(plan: Plan) -> dict[str, Any]:
    from torchgraft.reporting.json import plan_to_dict

    return plan_to_dict(plan)


def _plan_html(plan: Plan) -> str:
    from torchgraft.reporting.html import plan_html

    return plan_html(plan)


def _report_text(report: Report) -> str:
    from torchgraft.reporting.text import report_text

    return report_text(report)


def _report_to_dict(report: Report) -> dict[str, Any]:
    from torchgraft.reporting.json import report_to_dict

    return report_to_dict(report)


def _report_html(report: Report) -> str:
    from torchgraft.reporting.html import report_html

    return report_html(report)


PLAN_RENDERERS = Renderers(_plan_text, _plan_to_dict, _plan_html)
REPORT_RENDERERS = Renderers(_report_text, _report_to_dict, _report_html)
