"""What may be said on the command line about a plan: one table, each entry a keyword argument of the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from torchgraft.core.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAIRS = ("rename", "in_channels", "copies", "init")
PLAN_OPTIONS = (
    click.option(
        "--model",
        "model",
        required=True,
        metavar="MODEL",
        help="The model to fill: module:callable or file.py:callable, which is called, or another checkpoint of its layout.",
    ),
    click.option(
        "--kwargs", metavar="JSON", default=None, help="Keyword arguments for the callable, as a JSON object."
    ),
    click.option(
        "--rename",
        multiple=True,
        metavar="A=B",
        help="Names under A in the checkpoint are under B in the model. {i} is a number; a final dot a prefix.",
    ),
    click.option("--prefer", metavar="NAME", default=None, help="Which of several networks: a container path, or ema."),
    click.option(
        "--learned",
        type=click.Path(),
        default=None,
        metavar="FILE",
        help="A learned conversion: the checkpoint is converted as it is read.",
    ),
    click.option("--fresh", multiple=True, metavar="PATTERN", help="Tensors that keep their initial values."),
    click.option("--zero", multiple=True, metavar="PATTERN", help="Tensors that start at zero."),
    click.option(
        "--init", multiple=True, metavar="PATTERN=KIND", help="How added layers start: identity, zero or zero-gamma."
    ),
    click.option("--copies", multiple=True, metavar="A=B", help="Module B starts as a copy of module A."),
    click.option("--grow-rows", multiple=True, metavar="NAME", help="A table that may grow at its end."),
    click.option("--in-channels", multiple=True, metavar="NAME=RULE", help="How a weight gets other input channels."),
    click.option(
        "--qkv-layout",
        type=click.Choice(["flat", "per_head"]),
        default=None,
        help="How rows of fused q, k, v go, where names can't tell.",
    ),
    click.option(
        "--num-heads",
        type=click.IntRange(min=1),
        default=None,
        metavar="N",
        help="Number of query heads, for --qkv-layout.",
    ),
    click.option("--merge-lora", is_flag=True, help="Add low-rank adapters of the checkpoint to the weights."),
    click.option("--fuse-branches", is_flag=True, help="Fuse parallel training branches into one convolution."),
    click.option("--fold-norms", is_flag=True, help="Fold batch norms of the checkpoint into the layers before them."),
    click.option("--statistics", is_flag=True, help="Warn of values that look strange; reads every tensor once more."),
    click.option(
        "--on-doubt",
        type=click.Choice(["refuse", "skip", "take"]),
        default="refuse",
        show_default=True,
        help="What becomes of a tensor with more than one reading.",
    ),
    click.option(
        "--accept",
        type=click.Choice(["certain", "likely"]),
        default="likely",
        show_default=True,
        help="How sure a match must be.",
    ),
    click.option(
        "--min-coverage",
        type=click.FloatRange(0, 1),
        default=None,
        metavar="SHARE",
        help="Refuse when less than this share of elements finds a place.",
    ),
    click.option("--strict", is_flag=True, help="Refuse anything that stays fresh or unused."),
)
JSON_OPTION = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON (schema: docs/reference/report-schema.md)."
)
HTML_OPTION = click.option(
    "--html", type=click.Path(dir_okay=False), default=None, metavar="FILE", help="Also write one HTML page."
)
LINES_OPTION = click.option(
    "--lines", type=click.IntRange(min=1), default=None, metavar="N", help="At most N lines in each section."
)


@dataclass(frozen=True, slots=True)
class Shown:
    """How a result is shown."""

    as_json: bool = False
    html: str | None = None
    lines: int | None = None

    @classmethod
    def taken_from(cls, given: dict[str, Any]) -> Shown:
        """Take the options that say how to show a result out of `given`."""
        return cls(given.pop("as_json", False), given.pop("html", None), given.pop("lines", None))


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds `options`, the first on top of the help."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def asked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the library's keyword arguments; options that were not given are left out.

    Raises:
        UsageError: a pair without its `=`.
    """
    out = {name: value for name, value in given.items() if value not in (None, (), False)}
    for name in PAIRS:
        if name in out:
            out[name] = _pairs(name, out[name])
    return out


def _pairs(name: str, given: Sequence[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    option = "--" + name.replace("_", "-")
    for text in given:
        left, equals, right = text.partition("=")
        if not equals:
            raise UsageError(f"{option} {printable(text)}: write it as A=B")
        if left in out:
            raise UsageError(f"{option}: {printable(left)!r} is given twice")
        out[left] = right
    return out
