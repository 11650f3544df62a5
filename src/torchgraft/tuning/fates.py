"""What became of each tensor of a model, looked up by the tensor itself, so that ties count once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import did_you_mean
from torchgraft.core.layout import memory_range
from torchgraft.core.names import above
from torchgraft.core.objects import a_kind
from torchgraft.core.places import Place, Walk, is_module
from torchgraft.core.plan import Action, Plan, Rows, Step
from torchgraft.core.results.report import Report
from torchgraft.ops import (
    AdaptInputChannels,
    CropKernel,
    InflateKernel,
    MeanRows,
    PadKernel,
    PadRows,
    Resample1d,
    ResampleBiasTable,
    ResampleGrid,
    ResamplePatch,
)

if TYPE_CHECKING:
    import torch
    from torch import nn


# Ops after which a tensor has to learn again: its size or the meaning of its rows has changed. All others
# (rearranging, joining, folding, merging) leave the function of the model as it was.
RESIZING = (
    AdaptInputChannels, CropKernel, InflateKernel, MeanRows, PadKernel, PadRows, Resample1d, ResampleBiasTable,
    ResampleGrid, ResamplePatch,
)  # fmt: skip


class Fate(Enum):
    """LOADED: in full, its values as they were meant. ADAPTED: in full, resized. PARTLY: some rows. CONSTANT: by a rule
    of yours that uses no file. FRESH: not at all.
    """

    LOADED = "loaded"
    ADAPTED = "adapted"
    PARTLY = "partly"
    CONSTANT = "constant"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """One tensor of a model: all its places (more than one where it is tied), its fate, and, of PARTLY, the part."""

    places: tuple[Place, ...]
    fate: Fate
    known: Rows | None = None

    @property
    def name(self) -> str:
        """The first name."""
        return self.places[0].name

    @property
    def tensor(self) -> torch.Tensor:
        """The parameter or buffer itself."""
        return self.places[0].tensor

    @property
    def key(self) -> int:
        """What tells this tensor from all others of the model."""
        return id(self.tensor)

    @property
    def is_buffer(self) -> bool:
        """Whether it is a buffer, not a parameter."""
        return self.places[0].is_buffer


@dataclass(frozen=True, slots=True)
class TensorFates:
    """All tensors of a model in registration order, and all its modules by path."""

    tensors: tuple[ModelTensor, ...]
    modules: Mapping[str, nn.Module]

    @property
    def parameters(self) -> tuple[ModelTensor, ...]:
        """Tensors that are parameters."""
        return tuple(t for t in self.tensors if not t.is_buffer)

    @property
    def buffers(self) -> tuple[ModelTensor, ...]:
        """Tensors that are buffers."""
        return tuple(t for t in self.tensors if t.is_buffer)


# What load() returned: once, or several times, in the order of the loads.
Loads = Report | Plan | Sequence[Report | Plan]


def plan_of(given: Report | Plan) -> Plan:
    """Return the plan of a report, or the plan itself.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(given, Report):
        return given.plan
    if not isinstance(given, Plan):
        first = "give the model first, then the report" if is_module(given) else "give what load() or plan() returned"
        raise UsageError(f"report is {a_kind(given)}: {first}")
    return given


def tensor_fates(model: nn.Module, loads: Loads) -> TensorFates:
    """Return the fate of every tensor of `model` after all loads. A tensor that no plan knows, or of another shape, is fresh.

    Raises:
        UsageError: a plan is for another model: not one tensor of the same shape is in both. Or `model` is none. Or one
            tensor was filled in part along one dimension by one load, and along another by a later one.
    """
    if not is_module(model):
        raise UsageError(f"model is {a_kind(model)}: give the model first, then the report of load()")
    walk = Walk(model)
    grouped: dict[int, list[Place]] = {}
    for place in walk.places:
        grouped.setdefault(id(place.tensor), []).append(place)
    groups = [tuple(group) for group in grouped.values()]
    several: Iterable[Report | Plan] = loads if isinstance(loads, (list, tuple)) else (loads,)
    plans = [plan_of(one) for one in several]
    for plan in plans:
        _require_same_model(groups, plan.by_name)
    found = tuple(ModelTensor(group, *_fate(group, plans)) for group in groups)
    return TensorFates(found, dict(walk.modules))


def _require_same_model(groups: Sequence[Sequence[Place]], steps: Mapping[str, Step]) -> None:
    if not any(_step_of(group, steps) for group in groups):
        first = printable(groups[0][0].name) if groups else "no parameter at all"
        raise UsageError(
            f"the report is of another model: no tensor of it is here in the same shape (this one has {first}); pass the model "
            "that was loaded, not a wrapper around it or a part of it"
        )


def _step_of(group: Sequence[Place], steps: Mapping[str, Step]) -> Step | None:
    """Return the step that a plan has for a tensor, None where it has none, or one for another shape."""
    shape = tuple(group[0].tensor.shape)
    named = (steps[place.name] for place in group if place.name in steps)
    return next((step for step in named if step.slot.spec.shape == shape), None)


def _fate(group: Sequence[Place], plans: Iterable[Plan]) -> tuple[Fate, Rows | None]:
    """Return the fate of a tensor, and the part of it that checkpoints filled where it is a part."""
    fate: tuple[Fate, Rows | None] = (Fate.FRESH, None)
    for plan in plans:
        step = _step_of(group, plan.by_name)
        if step is not None and step.action is not Action.FRESH:
            fate = _fate_by(step) if step.rows is None else _fate_by_rows(step, step.rows, fate)
    return fate


def _fate_by(step: Step) -> tuple[Fate, Rows | None]:
    """Return the fate of a tensor that a step fills as a whole."""
    if step.known is not None:
        return _part(step.known)
    if not step.feeds:
        return Fate.CONSTANT, None
    ops = (*step.ops, *(op for feed in step.feeds for op in feed.ops))
    return (Fate.ADAPTED if any(isinstance(op, RESIZING) for op in ops) else Fate.LOADED), None


def _part(known: Rows) -> tuple[Fate, Rows | None]:
    return (Fate.PARTLY, known) if known.indices else (Fate.FRESH, None)


def _fate_by_rows(step: Step, written: Rows, before: tuple[Fate, Rows | None]) -> tuple[Fate, Rows | None]:
    """Return the fate of a tensor after a step that writes some of its rows; `before` is its fate until then."""
    fate, part = before
    known = step.known or written
    if fate in (Fate.FRESH, Fate.CONSTANT):
        return _part(known)
    if part is not None and part.dim != known.dim:
        raise UsageError(
            f"{printable(step.slot.name)} was filled in part along dimension {part.dim} by one load, and along {known.dim} by "
            "a later one: give the report of one of them"
        )
    size = step.slot.spec.shape[known.dim]
    rows = set(range(size) if part is None else part.indices).difference(written.indices).union(known.indices)
    if len(rows) < size:
        return _part(Rows(known.dim, tuple(sorted(rows))))
    return (Fate.LOADED if fate is Fate.PARTLY else fate), None


def sharing_memory(tensors: Iterable[ModelTensor]) -> Iterator[tuple[ModelTensor, ModelTensor]]:
    """Yield pairs of tensors that have memory in common and are no ties of each other: one of them moves the other."""
    ranges = sorted(
        [(*span, at, tensor) for at, tensor in enumerate(tensors) if (span := memory_range(tensor.tensor))],
        key=lambda found: found[:4],
    )
    for at, (device, _, stop, _, tensor) in enumerate(ranges):
        after = at + 1
        while after < len(ranges) and ranges[after][0] == device and ranges[after][1] < stop:
            yield tensor, ranges[after][4]
            after += 1


Pattern = str | re.Pattern[str]


def _matches(pattern: Pattern, name: str) -> bool:
    """Whether a full name is meant: `*` in a glob also stands for dots; a compiled expression must match in full."""
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.fullmatch(name) is not None


def _candidates(pattern: Pattern, names: Collection[str]) -> Iterable[str]:
    """Return the names that a pattern may mean: of one without wildcards its own at most."""
    if isinstance(pattern, re.Pattern) or set(pattern) & set("*?["):
        return names
    return [pattern] if pattern in names else []


def pattern_list(patterns: Iterable[Pattern], argument: str) -> tuple[Pattern, ...]:
    """Return the patterns.

    Raises:
        UsageError: they are no list, or something else is among them.
    """
    if isinstance(patterns, (str, re.Pattern)):
        raise UsageError(f"{argument}={patterns!r}: give a list of patterns, e.g. {argument}=[{patterns!r}]")
    try:
        found = tuple(patterns)
    except TypeError as error:
        raise UsageError(f"{argument}={patterns!r:.80}: give a list of patterns") from error
    if not all(isinstance(pattern, (str, re.Pattern)) for pattern in found):
        raise UsageError(f"{argument}={patterns!r:.80}: give a list of texts or compiled expressions")
    return found


def select_by_pattern(
    patterns: Sequence[Pattern], names: Sequence[str], modules: Iterable[str], argument: str
) -> set[str]:
    """Return the names that the patterns select, by themselves or through a module around them.

    Raises:
        UsageError: a pattern is none, or selects nothing.
    """
    inside: dict[str, list[str]] = {path: [] for path in modules if path}
    for name in names:
        for path in (name, *above(name)):
            inside.setdefault(path, []).append(name)
    selected: set[str] = set()
    for pattern in pattern_list(patterns, argument):
        matched = [path for path in _candidates(pattern, inside) if _matches(pattern, path)]
        if not matched:
            raise UsageError(_no_match_error(pattern, [*names, *inside], argument))
        selected.update(name for path in matched for name in inside[path])
    return selected


def _no_match_error(pattern: Pattern, known: Sequence[str], argument: str) -> str:
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    return f"{argument}: {printable(text)!r} is no parameter and no module of the model{did_you_mean(text, known)}"
