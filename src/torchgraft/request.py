"""All keyword arguments of plan() and load() as one checked request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeGuard, Unpack, get_args

from torchgraft.adapting import KERNEL_RULES, STARTS, AxisNames, Options
from torchgraft.arguments import Arguments
from torchgraft.core.choices import Accept, NewIndices, OnDoubt, QkvLayout, expect_one_of, is_one_of, listed_words
from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import did_you_mean
from torchgraft.core.objects import a_kind
from torchgraft.core.places import is_module
from torchgraft.core.policy import Policy, Verdict, expect_share
from torchgraft.matching import Rules, Stated
from torchgraft.ops import AdaptInputChannels

if TYPE_CHECKING:
    from torchgraft.learning import Learned

CHANNEL_RULES = "'repeat', 'sum', 'mean', 'zero', 'fresh', 'fill-mean' and 'copy:K' (copies of channel K)"
# What an argument must be, where it is given, and in words.
_KINDS: tuple[tuple[tuple[str, ...], type | tuple[type, ...], str], ...] = (
    (
        (
            "rename", "fan_out", "layers", "copies", "init", "axis_names", "class_names", "class_rows", "in_channels",
            "kernels", "grids", "permute", "tensor_parallel",
        ),
        Mapping, "a dictionary",
    ),
    (("strict", "fuse_branches", "statistics"), bool, "True or False"),
    (("prefer",), str, "a text"),
    (("qkv_layout",), (str, Mapping), "'flat', 'per_head', or a dictionary of them"),
    (("policy",), Policy, "a Policy"),
)  # fmt: skip


def _is_run(value: object, length: int | None = None) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str) and length in (None, len(value))


def _are_counts(values: Iterable[object], least: int) -> bool:
    return all(isinstance(n, int) and not isinstance(n, bool) and n >= least for n in values)


def _are_texts(values: object) -> bool:
    return _is_run(values) and all(isinstance(value, str) for value in values)


def _is_order(axes: object) -> bool:
    return _is_run(axes) and _are_counts(axes, 0) and sorted(axes) == list(range(len(axes)))


def _are_grids(value: object) -> bool:
    return _is_run(value, 2) and all(_is_run(grid, 2) and _are_counts(grid, 1) for grid in value)


def _one_of(words: Iterable[str]) -> tuple[Callable[[Any], bool], str]:
    accepted = tuple(words)
    return partial(is_one_of, accepted), listed_words(accepted)


# What each value of a dictionary must be, by a text each, and in words.
_EACH: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "rename": (lambda new: isinstance(new, str), "use texts on both sides"),
    "copies": (lambda new: isinstance(new, str), "use texts on both sides"),
    "fan_out": (_are_texts, "give a list of prefixes for each prefix"),
    "layers": (
        lambda picks: (_is_run(picks) or isinstance(picks, range)) and _are_counts(picks, 0),
        "give a list of the file's layer numbers, from 0",
    ),
    "grids": (_are_grids, "give ((height, width) in the file, (height, width) in the model)"),
    "permute": (_is_order, "give an order of all axes, e.g. (1, 0)"),
    "kernels": _one_of(KERNEL_RULES),
    "init": _one_of(STARTS),
    "grow_rows": _one_of(get_args(NewIndices)),
    "qkv_layout": _one_of(get_args(QkvLayout)),
    "tensor_parallel": (
        lambda kind: isinstance(kind, str),
        "use replicated, rows, columns, qkv, kv or gate_up",
    ),
    "in_channels": (lambda rule: isinstance(rule, str), f"use a rule; accepted are {CHANNEL_RULES}"),
    "axis_names": (lambda names: isinstance(names, AxisNames), "give AxisNames(source, target)"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All keyword arguments of plan() and load(), checked."""

    rules: Rules
    options: Options
    policy: Policy
    prefer: str | None = None
    on_doubt: str = "refuse"
    accept: str = "likely"
    tensor_parallel: Mapping[str, str] = field(default_factory=dict)
    source_model: object = None
    inputs: object = None
    source_inputs: object = None
    golden: str | os.PathLike[str] | None = None
    learned: Learned | None = None
    stated: Stated = field(default_factory=Stated)
    statistics: bool = False

    @property
    def runs_models(self) -> bool:
        """Whether the model is to be run before the plan is told."""
        return self.inputs is not None or self.golden is not None

    @property
    def leaves_open(self) -> bool:
        """Whether nothing was said about which tensor goes where, or what becomes of it: only what is accepted."""
        said = self.prefer is not None or self.source_model is not None or self.tensor_parallel
        return not said and (self.rules, self.options, self.stated) == (Rules(), Options(), Stated())


def make_request(**given: Unpack[Arguments]) -> Request:
    """Return the checked request; see load() for what each argument means.

    Raises:
        UsageError: an argument makes no sense.
    """
    _check_kinds(given)
    policy, min_coverage = given.get("policy"), given.get("min_coverage")
    on_doubt, accept = given.get("on_doubt", "refuse"), given.get("accept", "likely")
    expect_one_of(OnDoubt, on_doubt=on_doubt)
    expect_one_of(Accept, accept=accept)
    if min_coverage is not None:
        expect_share(min_coverage)
    source_model, source_inputs, golden = (given.get(name) for name in ("source_model", "source_inputs", "golden"))
    _check_source(source_model, source_inputs, golden)
    rules = Rules(
        rename=given.get("rename") or {},
        fan_out=given.get("fan_out") or {},
        layers=given.get("layers") or {},
        copies=given.get("copies") or {},
        fresh=_patterns("fresh", given.get("fresh", ())),
        zero=_patterns("zero", given.get("zero", ())),
    )
    options = Options(
        grow_rows=_grow_rows(given.get("grow_rows", ())),
        axis_names=_axis_names(given.get("axis_names"), given.get("class_names"), given.get("class_rows")),
        in_channels=_channels(given.get("in_channels")),
        kernels=given.get("kernels") or {},
        grids=given.get("grids") or {},
        permute=given.get("permute") or {},
        merge_lora=given.get("merge_lora", False),
        fuse_branches=given.get("fuse_branches", False),
        fold_norms=given.get("fold_norms", False),
        init=given.get("init") or {},
    )
    return Request(
        rules=rules,
        options=options,
        policy=_policy(policy, on_doubt=on_doubt, strict=given.get("strict", False), min_coverage=min_coverage),
        prefer=given.get("prefer"),
        on_doubt=on_doubt,
        accept=accept,
        tensor_parallel=given.get("tensor_parallel") or {},
        source_model=source_model,
        inputs=given.get("inputs"),
        source_inputs=source_inputs,
        golden=given.get("golden"),
        learned=learned_of(given.get("learned")),
        stated=_stated(given.get("qkv_layout"), given.get("num_heads"), given.get("tensor_parallel") or {}),
        statistics=given.get("statistics", False),
    )


def _check_kinds(arguments: Mapping[str, Any]) -> None:
    """Raise UsageError where an argument that was given is of another type than it must be."""
    for names, kind, words in _KINDS:
        for name in names:
            value = arguments.get(name)
            if value is not None and not isinstance(value, kind):
                raise UsageError(f"{name}={value!r:.80}: use {words}, not {type(value).__name__}")
    for name, (fits, words) in _EACH.items():
        given = arguments.get(name)
        for key, value in given.items() if isinstance(given, Mapping) else ():
            if not (isinstance(key, str) and fits(value)):
                raise UsageError(f"{name}={{{key!r:.80}: {value!r:.80}}}: {words}")
    for name in ("merge_lora", "fold_norms"):
        number = arguments.get(name, False)
        if not isinstance(number, (bool, int, float)) or not isfinite(number):
            raise UsageError(f"{name}={number!r}: use True, False or a number")


def _policy(policy: Policy | None, *, on_doubt: str, strict: bool, min_coverage: float | None) -> Policy:
    """Return the policy with the wishes that have an argument of their own."""
    chosen = policy or Policy()
    if on_doubt != "refuse":
        chosen = replace(chosen, doubt=Verdict.WARN)
    if strict:
        chosen = replace(chosen, missing=Verdict.REFUSE, unused=Verdict.REFUSE)
    if min_coverage is not None:
        chosen = replace(chosen, min_coverage=min_coverage)
    return chosen


def _patterns(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """Return a collection of texts."""
    if isinstance(given, str):
        raise UsageError(f"{name}={given!r}: give a list of patterns, e.g. {name}=[{given!r}]")
    try:
        found = tuple(given)
        strange = not all(isinstance(pattern, str) for pattern in found)
    except TypeError:  # nothing that can be gone through
        strange = True
    if strange:
        raise UsageError(f"{name}={given!r:.80}: give a list of patterns, each a text")
    return found


def checked_request(caller: str, arguments: Mapping[str, Any]) -> Request:
    """Return the checked request of a function of the library.

    Raises:
        TypeError: it has no such keyword argument.
        UsageError: an argument makes no sense.
    """
    unknown = next((name for name in arguments if name not in Arguments.__annotations__), None)
    if unknown is not None:
        hint = did_you_mean(unknown, Arguments.__annotations__, cutoff=0.7)
        raise TypeError(f"{caller}() got an unexpected keyword argument {unknown!r}{hint}")
    return make_request(**arguments)


def _check_source(source_model: object, source_inputs: object, golden: object) -> None:
    """Raise UsageError where what was said of the source makes no sense."""
    if source_model is not None and not is_module(source_model):
        raise UsageError(f"source_model is {a_kind(source_model)}: give the module that the checkpoint was saved from")
    if golden is not None and not isinstance(golden, (str, os.PathLike)):
        raise UsageError(f"golden is {a_kind(golden)}: give the path of a file that record() wrote")
    if golden is not None and source_inputs is not None:
        raise UsageError("golden= holds what the source was run on: source_inputs= can't be given beside it")


def learned_of(given: object) -> Learned | None:
    """Return the conversion that was given, or that lies in the file that was; None for none.

    Raises:
        UsageError: it is none.
        CheckpointError: there is no such file.
    """
    if given is None:
        return None
    from torchgraft.learning import Learned

    if isinstance(given, Learned):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Learned.read(given)
    what = "give what learn() or inverse() returned, or the path of a file that it was saved to"
    raise UsageError(f"learned is {a_kind(given)}: {what}")


def _stated(layout: str | Mapping[str, str] | None, heads: int | None, parallel: Mapping[str, str]) -> Stated:
    """Return what the caller says of fused projections; one of which every rank holds a share of q, k and v is no other way."""
    if isinstance(layout, str):
        expect_one_of(QkvLayout, qkv_layout=layout)
        layouts = {"*": str(layout)}
    elif layout is not None:
        layouts = dict(layout)
    else:
        layouts = {pattern: "flat" for pattern, kind in parallel.items() if kind == "qkv"}
    if heads is not None and (not isinstance(heads, int) or isinstance(heads, bool) or heads < 1):
        raise UsageError(f"num_heads={heads!r}: give the number of query heads")
    return Stated(layouts, heads)


def _axis_names(
    given: Mapping[str, AxisNames] | None, names: Mapping[str, Sequence[str]] | None, rows: Mapping[str, int] | None
) -> dict[str, AxisNames]:
    """Return the names of indices by pattern: those given, and class names for the rows of modules."""
    out = dict(given or {})
    if names is None and rows is None:
        return out
    if names is None or rows is None or set(names) != {"source", "target"}:
        raise UsageError(
            "class_names={'source': [...], 'target': [...]} and class_rows={module: rows per class}, e.g. {'head': 1}, need each other"
        )
    of_all = "*"  # "" is the path of the model itself, as torch has it
    return {m or of_all: AxisNames(names["source"], names["target"], each=each) for m, each in rows.items()} | out


def _channels(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the rules for other input channels by pattern; whether one leads to the right number is seen later."""
    for pattern, rule in (given or {}).items():
        if rule == "fresh":
            continue
        try:
            AdaptInputChannels(1, rule)
        except UsageError as error:
            raise UsageError(
                f"in_channels={{{pattern!r}: {rule!r}}}: {rule!r} is no rule; accepted are {CHANNEL_RULES}"
            ) from error
    return dict(given or {})


def _grow_rows(given: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return how new rows start by table; fresh where only tables are given."""
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(_patterns("grow_rows", given), "fresh")
