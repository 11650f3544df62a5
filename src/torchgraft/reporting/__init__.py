"""Plans, reports, inspections and diffs for people (text, terminal, HTML) and for programs (JSON)."""

from torchgraft.reporting.json import plan_to_dict, report_to_dict
from torchgraft.reporting.text import plan_text, report_text

__all__ = ["plan_text", "plan_to_dict", "report_text", "report_to_dict"]
