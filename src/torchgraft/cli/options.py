"""The options of the command line: one table, each entry a keyword argument of the library, under the heading of its help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import click


class HeadedOption(click.Option):
    """An option that the help shows under a heading."""

    def __init__(self, *names: Any, heading: str, **facts: Any) -> None:
        super().__init__(*names, **facts)
        self.heading = heading


def _under(heading: str) -> Callable[..., Callable[[Any], Any]]:
    """Return what click.option is, for options under `heading`."""
    return partial(click.option, cls=HeadedOption, heading=heading)


option = _under("Model")
MODEL_OPTIONS = (
    option(
        "--model",
        required=True,
        metavar="MODEL",
        help="The model to fill: module:callable or file.py:callable, which is called, or another checkpoint of its layout.",
    ),
    option("--kwargs", metavar="JSON", help="Keyword arguments for the callable, as a JSON object."),
)
KEPT_PLAN_OPTION = option(
    "--plan",
    "kept",
    metavar="FILE",
    help="Carry out a plan that was kept by plan -o; refused where MODEL or CHECKPOINT is another.",
)
option = _under("What goes where")
_NAMING = (
    option("--prefer", metavar="NAME", help="Which of several networks: a container path, or ema."),
    option(
        "--rename",
        multiple=True,
        metavar="A=B",
        help="Names under A in the checkpoint are under B in the model. {i} is a number; a final dot a prefix.",
    ),
    option(
        "--layers",
        multiple=True,
        metavar="LIST=0,2,4",
        help="Which layers of a list in the checkpoint the model's are, by their numbers.",
    ),
    option(
        "--learned",
        metavar="FILE",
        help="A learned conversion: the checkpoint is converted as it is read.",
    ),
    option(
        "--qkv-layout",
        type=click.Choice(["flat", "per_head"]),
        help="How rows of fused q, k, v go, where names can't tell.",
    ),
    option("--num-heads", type=click.IntRange(min=1), metavar="N", help="Number of query heads, for --qkv-layout."),
)
option = _under("Source")
_SOURCE = (
    option(
        "--source-model",
        metavar="MODEL",
        help="The model that CHECKPOINT was saved from: module:callable or file.py:callable. Its layers are looked at.",
    ),
    option("--source-kwargs", metavar="JSON", help="Keyword arguments for it, as a JSON object."),
    option(
        "--input",
        "inputs",
        multiple=True,
        metavar="[NAME=]SHAPE",
        help="What both are run on: 1x3x224x224 (random), ids=1x16:0-999 (random whole numbers), a file of tensors, or guess.",
    ),
    option(
        "--source-input",
        "source_inputs",
        multiple=True,
        metavar="[NAME=]SHAPE",
        help="The same for the source, where it takes its input in another way.",
    ),
    option(
        "--golden",
        metavar="FILE",
        help="A recorded run, in place of a source that runs and of its inputs.",
    ),
)
option = _under("What tensors become")
_BECOMING = (
    option("--fresh", multiple=True, metavar="PATTERN", help="Tensors that keep their initial values."),
    option("--zero", multiple=True, metavar="PATTERN", help="Tensors that start at zero."),
    option(
        "--init", multiple=True, metavar="PATTERN=KIND", help="How added layers start: identity, zero or zero-gamma."
    ),
    option("--copies", multiple=True, metavar="A=B", help="Module B starts as a copy of module A."),
    option("--grow-rows", multiple=True, metavar="NAME", help="A table that may grow at its end."),
    option(
        "--in-channels",
        multiple=True,
        metavar="NAME=RULE",
        help="How a weight gets other input channels: repeat, sum, mean, zero, fill-mean, copy:1 or fresh.",
    ),
    option("--merge-lora", is_flag=True, help="Add low-rank adapters of the checkpoint to the weights."),
    option("--fuse-branches", is_flag=True, help="Fuse parallel training branches into one convolution."),
    option("--fold-norms", is_flag=True, help="Fold batch norms of the checkpoint into the layers before them."),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEYWORD=JSON",
        help="Any keyword argument of the library, without an option or with one: 'permute={\"head\": [1, 0]}'. "
        "=@FILE reads its JSON from a file, @FILE alone all keywords from one JSON object.",
    ),
)
option = _under("What is accepted")
_ACCEPTED = (
    option(
        "--on-doubt",
        type=click.Choice(["refuse", "skip", "take"]),
        help="What becomes of a tensor with more than one reading.  [default: refuse]",
    ),
    option(
        "--accept",
        type=click.Choice(["certain", "likely"]),
        help="How sure a match must be.  [default: likely]",
    ),
    option(
        "--min-coverage",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Refuse when less than this share of elements finds a place.",
    ),
    option("--strict", is_flag=True, help="Refuse anything that stays fresh or unused."),
    option("--statistics", is_flag=True, help="Warn of values that look strange; reads every tensor once more."),
)
PLAN_OPTIONS = (*_NAMING, *_SOURCE, *_BECOMING, *_ACCEPTED)
option = _under("Output")
JSON_OPTION = option("--json", "as_json", is_flag=True, help="Print JSON (schema: docs/reference/report-schema.md).")
HTML_OPTION = option("--html", metavar="FILE", help="Also write one HTML page.")
LINES_OPTION = option("--lines", type=click.IntRange(min=1), metavar="N", help="At most N lines in each section.")
SHARDS_OPTION = option(
    "--shard-size", metavar="SIZE", help="Write several files of at most SIZE (5GB, 500MiB) and an index."
)


def output_option(text: str, *, required: bool) -> Callable[[Any], Any]:
    """Return the option that names the file to write."""
    return option("-o", "--output", required=required, metavar="FILE", help=text)


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
        for one in reversed(options):
            command = one(command)
        return command

    return add
