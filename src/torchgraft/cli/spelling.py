"""Remedies as they are typed: the library's keywords in a message are the command line's options where it has them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from torchgraft.asked import Asked
from torchgraft.cli.options import PLAN_OPTIONS, with_options

if TYPE_CHECKING:
    from torchgraft.reporting.view import View

# What may stand behind a keyword that is an option: a text, or a dictionary of one text; and behind another one.
_VALUE = r"(?:'(?P<text>[^'{}\s]+)'|\{'(?P<old>[^'{}]*)': '(?P<new>[^'{}]*)'\})?"
_ANY_VALUE = r"(?:\{[^{}]*\}|[^\s,;{]*)"


def as_typed(text: str) -> str:
    """Return a message with `rename=` as `--rename`, `on_doubt='take'` as `--on-doubt take`.

    What has no option is said to be for Python: `permute= in Python`.
    """
    return _pattern().sub(_option, text)


def view_as_typed(view: View) -> View:
    """Return a view whose objections and remarks name options."""
    sections = tuple(
        section
        if section.count
        else replace(section, groups=tuple(replace(group, cause=as_typed(group.cause)) for group in section.groups))
        for section in view.sections
    )
    return replace(view, sections=sections)


def _option(found: re.Match[str]) -> str:
    if found["name"] is None:
        return f"{found[0]} in Python"
    option = _options()[found["name"]]
    if found["text"] is not None:
        return f"{option} {found['text']}"
    if found["old"] is not None:
        return f"{option} '{found['old']}={found['new']}'"
    follows = found.string[found.end() : found.end() + 1]
    return f"{option} " if follows and (follows.isalnum() or follows in "'\"[(-") else option


@cache
def _options() -> dict[str, str]:
    """Return the option of each keyword that has one."""
    bearer = with_options(*PLAN_OPTIONS)(lambda: None)
    return {option.name: option.opts[-1] for option in bearer.__click_params__}


@cache
def _pattern() -> re.Pattern[str]:
    options = _options()
    others = [name for name in Asked.__annotations__ if name not in options]
    return re.compile(rf"(?<![\w.'\-])(?:(?P<name>{'|'.join(options)})={_VALUE}|(?:{'|'.join(others)})={_ANY_VALUE})")
