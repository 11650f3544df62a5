"""Remedies as they are typed: the library's keywords in a message are the command line's options, or are given by --set."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from functools import cache
from shlex import quote
from typing import TYPE_CHECKING

from torchgraft.asked import Asked
from torchgraft.cli.options import PLAN_OPTIONS, with_options

if TYPE_CHECKING:
    from torchgraft.reporting.view import Group, Section, View

# What may stand behind a keyword: a text, a dictionary of one text, a policy, another dictionary, or anything else.
_VALUE = (
    r"(?:'(?P<text>[^'{}\s]+)'|\{'(?P<old>[^'{}]*)': '(?P<new>[^'{}]*)'\}"
    r"|tg\.Policy\((?P<kind>\w+)=tg\.Verdict\.(?P<verdict>\w+)\)|(?P<other>\{[^{}]*\}))?"
)


def as_typed(text: str) -> str:
    """Return a message with `rename=` as `--rename`, `on_doubt='take'` as `--on-doubt take`, `grids=` as `--set grids`."""
    return _pattern().sub(_option, text)


def view_as_typed(view: View) -> View:
    """Return a view whose causes, objections and remarks name options; what the file says is left as it is."""
    sections = tuple(
        section
        if section.title == "beside the tensors"
        else replace(section, groups=tuple(_group_as_typed(section, group) for group in section.groups))
        for section in view.sections
    )
    return replace(view, sections=sections)


def _group_as_typed(section: Section, group: Group) -> Group:
    """Return a group whose cause names options, where it is a cause and not a line of names."""
    return replace(group, cause=as_typed(group.cause)) if group.lines or not section.count else group


def _option(found: re.Match[str]) -> str:
    option = _options().get(found["name"])
    if option is None:
        return _setting(found)
    if found["text"] is not None:
        return f"{option} {found['text']}"
    if found["old"] is not None:
        return f"{option} '{found['old']}={found['new']}'"
    follows = found.string[found.end() : found.end() + 1]
    rest = found["other"] or ""
    return f"{option} {rest}" if rest or (follows and (follows.isalnum() or follows in "'\"[(-")) else option


def _setting(found: re.Match[str]) -> str:
    """Return how a keyword without an option is given; a value with gaps (`...`) is shown as it is in Python."""
    name = found["name"]
    if found["kind"] is not None:
        return _set(name, json.dumps({found["kind"]: found["verdict"].lower()}))
    value = found[0].removeprefix(f"{name}=")
    try:
        return _set(name, json.dumps(ast.literal_eval(value)))
    except (ValueError, SyntaxError, TypeError):  # nothing, or something in place of what only the user knows
        return _set(name, value.replace("'", '"'))


def _set(name: str, value: str) -> str:
    return f"--set {quote(f'{name}={value}')}" if value else f"--set {name}=JSON"


@cache
def _options() -> dict[str, str]:
    """Return the option of each keyword that has one."""
    bearer = with_options(*PLAN_OPTIONS)(lambda: None)
    return {option.name: option.opts[-1] for option in bearer.__click_params__}


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.'\-])(?P<name>{'|'.join(Asked.__annotations__)})={_VALUE}")
