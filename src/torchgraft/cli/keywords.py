"""Options and the library's keyword arguments: what was typed as keywords, and keywords in messages as they are typed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from torchgraft.arguments import Arguments
from torchgraft.cli.options import PLAN_OPTIONS, with_options
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import did_you_mean

if TYPE_CHECKING:
    from torchgraft.reporting.view import Group, Section, View

PAIRS = {"rename": "A=B", "in_channels": "NAME=RULE", "copies": "A=B", "init": "PATTERN=KIND", "layers": "LIST=0,2,4"}
NOT_IN_JSON = ("source_model", "inputs", "source_inputs")  # models and tensors, which no JSON holds; they have options
_TEXTS = ("prefer", "learned", "on_doubt", "accept", "qkv_layout", "golden")  # may be given without JSON's quotes
_LONGEST = 10  # digits of a number
SETTABLE = tuple(name for name in Arguments.__annotations__ if name not in NOT_IN_JSON)


def keyword_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the library's keyword arguments; options that were not given are left out.

    Raises:
        UsageError: a pair without its `=`, a keyword that is none, a value that is no JSON, or one given twice.
    """
    out = {name: value for name, value in given.items() if value is not None and value != () and value is not False}
    for name, form in PAIRS.items():
        if name in out:
            out[name] = _pairs(name, out[name], form)
    if "layers" in out:
        out["layers"] = {path: _numbers(path, said) for path, said in out["layers"].items()}
    for text in out.pop("settings", ()):
        for name, value in _setting(text).items():
            if name in out:
                raise UsageError(f"--set {name}: it is given twice, or has been by its option")
            out[name] = _of_its_type(name, value)
    return out


def _pairs(name: str, given: Sequence[str], form: str) -> dict[str, str]:
    out: dict[str, str] = {}
    option = "--" + name.replace("_", "-")
    for text in given:
        left, equals, right = text.partition("=")
        if not equals:
            raise UsageError(f"{option} {printable(text)}: write it as {form}")
        if left in out:
            raise UsageError(f"{option}: {printable(left)!r} is given twice")
        out[left] = right
    return out


def _numbers(path: str, said: str) -> list[int]:
    """Return the numbers of layers in a text such as `0,2,4`."""
    numbers = [number.strip() for number in said.split(",")]
    if not all(number.isascii() and number.isdecimal() and len(number) < _LONGEST for number in numbers):
        raise UsageError(f"--layers {printable(f'{path}={said}')}: write it as {PAIRS['layers']}, with numbers from 0")
    return [int(number) for number in numbers]


def _setting(text: str) -> dict[str, Any]:
    """Return what `KEYWORD=JSON`, `KEYWORD=@FILE` or `@FILE` says."""
    if text.startswith("@"):
        found = _json(_content(text), text)
        if not isinstance(found, dict):
            raise UsageError(f"--set {printable(text)}: the file must hold a JSON object, with keywords as its names")
        return {_known(name): value for name, value in found.items()}
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {printable(text)}: write it as KEYWORD=JSON, e.g. 'permute={{\"head\": [1, 0]}}'")
    name = _known(name.strip().replace("-", "_"))
    if value.startswith("@"):
        return {name: _json(_content(value), text)}
    if name in _TEXTS and value[:1] not in ('"', "{"):
        return {name: value}
    return {name: _json(value, text)}


def _content(reference: str) -> str:
    path = reference[1:]
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"--set {printable(reference)}: {printable(path)} can't be read: {error}") from error


def _json(content: str, text: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        said = f"--set {printable(text)}: no JSON ({error})"
        raise UsageError(f"{said}; texts need double quotes, as in 'permute={{\"head\": [1, 0]}}'") from error


def _known(name: str) -> str:
    if name in NOT_IN_JSON:
        raise UsageError(f"--set {name}: no JSON can hold it; use --{name.replace('_', '-').removesuffix('s')}")
    if name not in SETTABLE:
        hint = did_you_mean(name, SETTABLE)
        raise UsageError(
            f"--set {printable(name)}: load() has no such keyword{hint or '; it has ' + ', '.join(SETTABLE)}"
        )
    return name


def _of_its_type(name: str, value: Any) -> Any:
    """Return a value with the library's own types where JSON has none for them."""
    if name == "axis_names" and isinstance(value, dict):
        return {pattern: _axis_names(pattern, one) for pattern, one in value.items()}
    if name == "policy":
        return _policy(value)
    return value


def _axis_names(pattern: str, given: Any) -> Any:
    from torchgraft.adapting import AxisNames

    known = {"source", "target", "dim", "each", "new"}
    if not isinstance(given, dict) or not {"source", "target"} <= given.keys() <= known:
        raise UsageError(
            f"--set axis_names: {printable(pattern)!r} needs an object with source and target, and may have dim, each and new"
        )
    return AxisNames(**given)


def _policy(given: Any) -> Any:
    from dataclasses import fields

    from torchgraft.core.policy import Policy, Verdict

    kinds = [kind.name for kind in fields(Policy)]
    verdicts = [verdict.value for verdict in Verdict]
    if not isinstance(given, dict):
        raise UsageError('--set policy: give a verdict for each kind of objection, e.g. \'{"lossy": "accept"}\'')
    made: dict[str, Any] = {}
    for kind, value in given.items():
        if kind not in kinds:
            hint = did_you_mean(kind, kinds) or f"; there are {', '.join(kinds)}"
            raise UsageError(f"--set policy: {printable(kind)!r} is no kind of objection{hint}")
        if kind != "min_coverage" and value not in verdicts:
            raise UsageError(f"--set policy: {kind} is {printable(repr(value), 80)}: use one of {', '.join(verdicts)}")
        made[kind] = value if kind == "min_coverage" else Verdict(value)
    return Policy(**made)


def _nested(left: str, right: str) -> str:
    """Return what matches a bracket with brackets of its kind in it, one level deep."""
    inner = rf"[^\{left}\{right}]"
    return rf"\{left}(?:{inner}|\{left}{inner}*\{right})*\{right}"


# What may stand behind a keyword: a policy, True, a number, a text, or a list, tuple or dictionary.
_VALUE = (
    r"(?:tg\.Policy\((?P<kind>\w+)=tg\.Verdict\.(?P<verdict>\w+)\)"
    rf"|(?P<value>True|-?\d+(?:\.\d+)?(?!\w)|'[^'{{}}\s]*'|{_nested('[', ']')}|{_nested('{', '}')}|{_nested('(', ')')}))?"
)


def as_typed(text: str) -> str:
    """Return a message with keywords as they are typed.

    `rename=` becomes `--rename`, `on_doubt='take'` `--on-doubt take`, `fresh=['a', 'b']` `--fresh a --fresh b`, and
    `grids=` `--set grids=JSON`. What was typed with `--set` already stays as it is.
    """
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
    """Return a group whose cause and remedy name options, where it is a cause and not a line of names."""
    told = group.lines or not section.count
    return replace(group, cause=as_typed(group.cause), remedy=as_typed(group.remedy)) if told else group


def _option(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if found["kind"] is not None:
        return _set(name, json.dumps({found["kind"]: found["verdict"].lower()}))
    option = _options().get(name)
    if value is None:
        follows = found.string[found.end() : found.end() + 1]
        known = option or f"--set {name}=JSON"
        return f"{known} " if follows and (follows.isalnum() or follows in "'\"[(-") else known
    try:
        return _typed(name, option, ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError):  # something stands for what only the user knows, as in {'': [...]}
        listed = re.sub(r"(?<!\w)\(([^()]*)\)", r"[\1]", re.sub(r"(?<!\w)\(([^()]*)\)", r"[\1]", value))
        return _set(name, listed.replace("'", '"'))


def _typed(name: str, option: str | None, value: Any) -> str:
    """Return how a keyword is given a value: by its option, where that can say it."""
    if option is not None and value is True:
        return option
    words = None if option is None else _option_values(name, value)
    return _set(name, json.dumps(value)) if words is None else " ".join(f"{option} {word}" for word in words)


def _option_values(name: str, value: Any) -> list[str] | None:
    """Return the quoted words that give a value, one for each use of the option; None where its option can't say it."""
    if isinstance(value, (str, int, float)):
        return [quote(str(value))]
    if isinstance(value, list) and _are_texts(value):
        return [quote(one) for one in value]
    if isinstance(value, dict) and name in PAIRS and _are_texts([*value, *value.values()]):
        return [f"'{old}={new}'" for old, new in value.items()]
    if isinstance(value, dict) and name == "layers" and all(map(_are_numbers, value.values())):
        return [quote(f"{path}={','.join(map(str, numbers))}") for path, numbers in value.items()]
    return None


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(one, str) for one in values)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, int) for one in value)


def _set(name: str, value: str) -> str:
    return f"--set {quote(f'{name}={value}')}"


@cache
def _options() -> dict[str, str]:
    """Return the option of each keyword that has one."""
    bearer = with_options(*PLAN_OPTIONS)(lambda: None)
    return {option.name: option.opts[-1] for option in bearer.__click_params__}


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.'\-])(?<!--set )(?P<name>{'|'.join(Arguments.__annotations__)})={_VALUE}")
