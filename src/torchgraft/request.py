"""All keyword arguments of plan() and load() as one checked request."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Unpack, get_args

from torchgraft.adapting import KERNEL_RULES, STARTS, AxisNames, Options
from torchgraft.arguments import OTHER_WORDS, Arguments
from torchgraft.core.choices import Accept, NewIndices, OnDoubt, QkvLayout, is_one_of, listed_words
from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import did_you_mean
from torchgraft.core.names import covered, without_prefix
from torchgraft.core.objects import a_kind
from torchgraft.core.places import is_module
from torchgraft.core.policy import Policy, Verdict, expect_share
from torchgraft.matching import Rules, Stated
from torchgraft.ops import AdaptInputChannels

if TYPE_CHECKING:
    from torchgraft.learning import Learned

Read: TypeAlias = Callable[[str, Any], Any]
CHANNEL_RULES = "'repeat', 'sum', 'mean', 'zero', 'fresh', 'fill-mean' and 'copy:K' (copies of channel K)"


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


def _are_picks(value: object) -> bool:
    return (_is_run(value) or isinstance(value, range)) and _are_counts(value, 0)


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float)) and isfinite(value)


def _as_it_is(_: str, given: object) -> object:
    return given


def _words(accepted: Iterable[str]) -> tuple[Callable[[Any], bool], str]:
    """Return whether a value is one of the words, as a function, and which they are, in words."""
    words = tuple(accepted)
    return partial(is_one_of, words), listed_words(words)


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _that(fits: Callable[[Any], bool], use: str) -> Read:
    """Return the reader of a value that fits."""

    def read(name: str, given: Any) -> Any:
        if not fits(given):
            raise UsageError(f"{name}={given!r:.80}: {use}")
        return given

    return read


def _mapping(example: str) -> Read:
    """Return the reader of a dictionary, such as the example."""

    def read(name: str, given: Any) -> Any:
        return _that(_is_a(Mapping), f"use a dictionary, e.g. {name}={example}")(name, given)

    return read


def _table(fits: Callable[[Any], bool], use: str, example: str) -> Read:
    """Return the reader of a dictionary from texts to values that fit, such as the example."""

    def read(name: str, given: Any) -> dict[str, Any]:
        for key, value in _mapping(example)(name, given).items():
            if not (isinstance(key, str) and fits(value)):
                raise UsageError(f"{name}={{{key!r:.80}: {value!r:.80}}}: {use}")
        return dict(given)

    return read


def _thing(fits: Callable[[Any], bool], use: str) -> Read:
    """Return the reader of a value that is too large to be shown where it doesn't fit."""

    def read(name: str, given: Any) -> Any:
        if not fits(given):
            raise UsageError(f"{name} is {a_kind(given)}: {use}")
        return given

    return read


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
        raise UsageError(f"{name}={given!r:.80}: give a list of patterns, each a text, e.g. {name}=['head']")
    return found


def _share(_: str, given: float) -> float:
    expect_share(given)
    return given


def _layouts(name: str, given: Any) -> Any:
    """Return the layouts of fused projections by pattern; a single one is for all of them."""
    _that(_is_a(str, Mapping), "use 'flat', 'per_head', or a dictionary of them")(name, given)
    if isinstance(given, str):
        return {"*": _that(*_words(get_args(QkvLayout)))(name, given)}
    return _table(*_words(get_args(QkvLayout)), "{'attn.qkv': 'flat'}")(name, given)


def _channels(name: str, given: Any) -> dict[str, str]:
    """Return the rules for other input channels by pattern; whether one leads to the right number is seen later."""
    rules: dict[str, str] = _table(_is_a(str), f"use a rule; accepted are {CHANNEL_RULES}", "{'conv1': 'mean'}")(
        name, given
    )
    for pattern, rule in rules.items():
        if rule == "fresh":
            continue
        try:
            AdaptInputChannels(1, rule)
        except UsageError as error:
            raise UsageError(
                f"{name}={{{pattern!r}: {rule!r}}}: {rule!r} is no rule; accepted are {CHANNEL_RULES}; "
                "channels of another order have axis_names="
            ) from error
    return rules


def _grow_rows(name: str, given: Any) -> Any:
    """Return by table how new rows start; fresh where only tables are given."""
    rules = given if isinstance(given, Mapping) else dict.fromkeys(_patterns(name, given), "fresh")
    return _table(*_words(get_args(NewIndices)), "{'embed': 'mean'}")(name, rules)


def learned_of(given: object) -> Learned | None:
    """Return the given conversion, read from its file where a path is given; None stays None.

    Raises:
        UsageError: it is neither.
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


_TRUTH = _that(_is_a(bool), "use True or False")
_NUMBER = _that(_is_number, "use True, False or a number")
# How each argument is checked: a function from its name and the given value to the value that is used.
READERS: Mapping[str, Read] = {
    "rename": _table(_is_a(str), "use texts on both sides", "{'encoder': 'backbone'}"),
    "fan_out": _table(_are_texts, "give a list of prefixes for each prefix", "{'encoder': ['encoder_a', 'encoder_b']}"),
    "layers": _table(_are_picks, "give a list of the file's layer numbers, from 0", "{'blocks': [0, 2, 4]}"),
    "copies": _table(_is_a(str), "use texts on both sides", "{'attn': 'added_attn'}"),
    "fresh": _patterns,
    "zero": _patterns,
    "init": _table(*_words(STARTS), "{'blocks.6.fc2': 'zero'}"),
    "source_model": _thing(is_module, "give the module that the checkpoint was saved from"),
    "inputs": _as_it_is,
    "source_inputs": _as_it_is,
    "golden": _thing(_is_a(str, os.PathLike), "give the path of a file that record() wrote"),
    "prefer": _that(_is_a(str), "use a text"),
    "learned": lambda _, given: learned_of(given),
    "statistics": _TRUTH,
    "on_doubt": _that(*_words(get_args(OnDoubt))),
    "accept": _that(*_words(get_args(Accept))),
    "min_coverage": _share,
    "strict": _TRUTH,
    "policy": _that(_is_a(Policy), "use a Policy, e.g. tg.Policy(unused=tg.Verdict.REFUSE)"),
    "grow_rows": _grow_rows,
    "axis_names": _table(_is_a(AxisNames), "give AxisNames(source, target)", "{'head': AxisNames(source, target)}"),
    "class_names": _mapping("{'source': [...], 'target': [...]}"),
    "class_rows": _mapping("{'head': 1}"),
    "merge_lora": _NUMBER,
    "fuse_branches": _NUMBER,
    "fold_norms": _NUMBER,
    "qkv_layout": _layouts,
    "num_heads": _that(lambda heads: _are_counts([heads], 1), "give the number of query heads"),
    "kernels": _table(*_words(KERNEL_RULES), "{'patch_embed.proj': 'resample'}"),
    "in_channels": _channels,
    "grids": _table(
        _are_grids,
        "give ((height, width) in the file, (height, width) in the model)",
        "{'pos_embed': ((14, 14), (7, 7))}",
    ),
    "permute": _table(_is_order, "give an order of all axes, e.g. (1, 0)", "{'fc': (1, 0)}"),
    "tensor_parallel": _table(_is_a(str), "use replicated, rows, columns, qkv, kv or gate_up", "{'attn.qkv': 'qkv'}"),
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

    def without_prefixes(self, keys: Container[str], names: Sequence[str]) -> Request:
        """Return the request with patterns as of the model's `names`, where they have a prefix that only the file's `keys` have."""
        if self.leaves_open:
            return self
        is_meant = covered(names)

        def named(pattern: str) -> str:
            return without_prefix(pattern, keys, names, is_meant)

        tables = [one.name for one in fields(Options) if isinstance(getattr(self.options, one.name), Mapping)]
        told: dict[str, Any] = {
            name: {named(pattern): value for pattern, value in getattr(self.options, name).items()} for name in tables
        }
        fresh, zero = tuple(map(named, self.rules.fresh)), tuple(map(named, self.rules.zero))
        return replace(self, options=replace(self.options, **told), rules=replace(self.rules, fresh=fresh, zero=zero))

    def words(self) -> str:
        """Return a text of what was said, in whatever order; of models, inputs and files only which are given."""
        parts: tuple[Any, ...] = (self, self.rules, self.options, self.stated)
        said = {one.name: getattr(part, one.name) for part in parts for one in fields(part)}
        for name in ("rules", "options", "stated"):
            del said[name]
        return "; ".join(f"{name}={_told(value)}" for name, value in said.items())

    @property
    def runs_models(self) -> bool:
        """Whether the model is to be run before the plan is reported."""
        return self.inputs is not None or self.golden is not None

    @property
    def leaves_open(self) -> bool:
        """Whether nothing was said about which tensor goes where, or what becomes of it: only what is accepted."""
        said = self.prefer is not None or self.source_model is not None or self.tensor_parallel
        return not said and (self.rules, self.options, self.stated) == (Rules(), Options(), Stated())


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return str(sorted((name, repr(one)) for name, one in value.items()))
    if isinstance(value, tuple):
        return str(sorted(map(repr, value)))
    return repr(value) if value is None or isinstance(value, (str, int, float, Policy)) else "given"


def make_request(**given: Unpack[Arguments]) -> Request:
    """Return the checked request; see load() for what each argument means. None is as if it weren't given.

    Raises:
        UsageError: an argument makes no sense.
    """
    said = {name: READERS[name](name, value) for name, value in given.items() if value is not None}
    if "golden" in said and "source_inputs" in said:
        raise UsageError("golden= holds what the source was run on: source_inputs= can't be given beside it")
    said["axis_names"] = _axis_names(said.get("axis_names", {}), said.get("class_names"), said.get("class_rows"))
    said["policy"] = _policy(said)
    said["stated"] = Stated(said.get("qkv_layout", _shared_out(said.get("tensor_parallel", {}))), said.get("num_heads"))
    return Request(
        **_fields(Request, said), rules=Rules(**_fields(Rules, said)), options=Options(**_fields(Options, said))
    )


def _fields(kind: type, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said under the names of the fields of a dataclass."""
    return {one.name: said[one.name] for one in fields(kind) if one.name in said}


def _policy(said: Mapping[str, Any]) -> Policy:
    """Return the policy with the wishes that have an argument of their own."""
    chosen = said.get("policy") or Policy()
    if said.get("on_doubt", "refuse") != "refuse":
        chosen = replace(chosen, doubt=Verdict.WARN)
    if said.get("strict"):
        chosen = replace(chosen, missing=Verdict.REFUSE, unused=Verdict.REFUSE)
    if "min_coverage" in said:
        chosen = replace(chosen, min_coverage=said["min_coverage"])
    return chosen


def _shared_out(parallel: Mapping[str, str]) -> dict[str, str]:
    """Return the layouts of fused projections of which every rank holds a share of q, k and v: it is no other way."""
    return {pattern: "flat" for pattern, kind in parallel.items() if kind == "qkv"}


def _axis_names(
    given: dict[str, AxisNames], names: Mapping[str, Sequence[str]] | None, rows: Mapping[str, int] | None
) -> Mapping[str, AxisNames]:
    """Return the names of indices by pattern: those given, and class names for the rows of modules."""
    if names is None and rows is None:
        return given
    if names is None or rows is None or set(names) != {"source", "target"}:
        raise UsageError(
            "class_names={'source': [...], 'target': [...]} and class_rows={module: rows per class}, e.g. {'head': 1}, need "
            "each other"
        )
    of_all = "*"  # "" is the path of the model itself, as torch has it
    by_class = {m or of_all: AxisNames(names["source"], names["target"], each=each) for m, each in rows.items()}
    return {**by_class, **given}


# Keywords of torch and of other libraries, and what makes them needless here.
_ELSEWHERE = {
    "map_location": "values go where the model's own are", "weights_only": "nothing of a file is ever run",
    "assign": "tensors are filled in place", "ignore_mismatched_sizes": "tensors of other sizes stay fresh, with a reason",
    "dtype": "values get the types that the model has", "torch_dtype": "values get the types that the model has",
    "num_classes": "heads of other sizes stay fresh", "num_labels": "heads of other sizes stay fresh",
    "prefix": "prefixes are found; rename= says others", "exclude": "fresh= keeps tensors as they are",
}  # fmt: skip


def checked_request(caller: str, arguments: Mapping[str, Any]) -> Request:
    """Return the checked request of a function of the library.

    Raises:
        TypeError: it has no such keyword argument.
        UsageError: an argument makes no sense.
    """
    unknown = next((name for name in arguments if name not in Arguments.__annotations__), None)
    if unknown is not None:
        near = did_you_mean(unknown, Arguments.__annotations__, cutoff=0.7)
        meant = f"; did you mean {OTHER_WORDS[unknown]!r}?" if unknown in OTHER_WORDS else near
        needless = _ELSEWHERE.get(unknown, "")
        hint = f": {needless}" if needless else meant
        raise TypeError(f"{caller}() got an unexpected keyword argument {unknown!r}{hint}")
    return make_request(**arguments)
