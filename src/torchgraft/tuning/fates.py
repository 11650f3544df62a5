"""What became of each tensor of a model, looked up by the tensor itself, so that ties count once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import did_you_mean
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


def tensor_fates(model: nn.Module, given: Report | Plan | None) -> TensorFates:
    """Return the fate of every tensor of `model`. A tensor that the plan doesn't know, or of another shape, is fresh.

    Raises:
        UsageError: the plan is for another model: not one tensor of the same shape is in both. Or `model` is none.
    """
    if not is_module(model):
        raise UsageError(f"model is {a_kind(model)}: give the model first, then the report of load()")
    walk = Walk(model)
    grouped: dict[int, list[Place]] = {}
    for place in walk.places:
        grouped.setdefault(id(place.tensor), []).append(place)
    steps = {} if given is None else plan_of(given).by_name
    found = tuple(ModelTensor(tuple(group), *_fate(group, steps)) for group in grouped.values())
    if given is not None and not any(_is_known(tensor.places, steps) for tensor in found):
        first = printable(found[0].name) if found else "no parameter at all"
        raise UsageError(
            f"the report is of another model: no tensor of it is here in the same shape (this one has {first}); pass the model "
            "that was loaded, not a wrapper around it or a part of it"
        )
    return TensorFates(found, dict(walk.modules))


def _is_known(group: Sequence[Place], steps: Mapping[str, Step]) -> bool:
    shape = tuple(group[0].tensor.shape)
    return any(place.name in steps and steps[place.name].slot.spec.shape == shape for place in group)


def _fate(group: list[Place], steps: Mapping[str, Step]) -> tuple[Fate, Rows | None]:
    """Return the fate of a tensor, and the part of it that the checkpoint filled where it is a part."""
    step = next((steps[place.name] for place in group if place.name in steps), None)
    if step is None or tuple(group[0].tensor.shape) != step.slot.spec.shape or step.action is Action.FRESH:
        return Fate.FRESH, None
    if step.known is not None:
        return (Fate.PARTLY, step.known) if step.known.indices else (Fate.FRESH, None)
    if not step.feeds:
        return Fate.CONSTANT, None
    ops = (*step.ops, *(op for feed in step.feeds for op in feed.ops))
    return (Fate.ADAPTED if any(isinstance(op, RESIZING) for op in ops) else Fate.LOADED), None


def sharing_memory(tensors: Iterable[ModelTensor]) -> Iterator[tuple[ModelTensor, ModelTensor]]:
    """Yield pairs of tensors that have memory in common and are no ties of each other: one of them moves the other."""
    ranges = sorted(
        [(*span, at, tensor) for at, tensor in enumerate(tensors) if (span := _memory_range(tensor.tensor))],
        key=lambda found: found[:4],
    )
    for at, (device, _, stop, _, tensor) in enumerate(ranges):
        after = at + 1
        while after < len(ranges) and ranges[after][0] == device and ranges[after][1] < stop:
            yield tensor, ranges[after][4]
            after += 1


def _memory_range(tensor: torch.Tensor) -> tuple[str, int, int] | None:
    """Return the device, and where the elements of a tensor begin there, and end; None for what has no such memory."""
    try:
        start = tensor.data_ptr()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # sparse, or made of other tensors
        return None
    if not start or not tensor.numel():
        return None
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return str(tensor.device), start, start + (last + 1) * tensor.element_size()


Pattern = str | re.Pattern[str]


def _matcher(pattern: Pattern) -> Callable[[str], bool]:
    """Return a test for full names: `*` in a glob also stands for dots; a compiled expression must match in full."""
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.fullmatch(name) is not None
    if not set(pattern) & set("*?["):
        return lambda name: name == pattern
    return lambda name: fnmatchcase(name, pattern)


def select_by_pattern(
    patterns: Sequence[Pattern], names: Sequence[str], modules: Iterable[str], argument: str
) -> set[str]:
    """Return the names that the patterns select, by themselves or through a module around them.

    Raises:
        UsageError: a pattern selects nothing.
    """
    if isinstance(patterns, (str, re.Pattern)):
        raise UsageError(f"{argument}={patterns!r}: give a list of patterns, e.g. {argument}=[{patterns!r}]")
    known = list(modules)
    selected: set[str] = set()
    for pattern in patterns:
        matches = _matcher(pattern)
        matched_modules = {path for path in known if path and matches(path)}
        matched = {
            name for name in names if matches(name) or any(path in matched_modules for path in (name, *above(name)))
        }
        if not matched and not matched_modules:
            raise UsageError(_no_match_error(pattern, [*names, *known], argument))
        selected |= matched
    return selected


def _no_match_error(pattern: Pattern, known: Sequence[str], argument: str) -> str:
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    return f"{argument}: {printable(text)!r} is no parameter and no module of the model{did_you_mean(text, known)}"
