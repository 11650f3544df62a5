"""Renderers of plans and reports that are imported once something is shown: loading needs none of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torchgraft.core.shown import Renderers


def _shown(name: str, result: object) -> Any:
    from torchgraft import reporting

    return getattr(reporting, name)(result)


def _renderers(kind: str) -> Renderers:
    """Return renderers that can be pickled, as plans are that processes share."""
    return Renderers(*(partial(_shown, f"{kind}_{form}") for form in ("text", "to_dict", "html")))


PLAN_RENDERERS, REPORT_RENDERERS = _renderers("plan"), _renderers("report")
