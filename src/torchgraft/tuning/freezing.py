"""Freezing by what was loaded: parameters without gradients, and statistics that stand still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from torchgraft.core.choices import Dropout, Partly, What, expect_one_of
from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import counted, listed
from torchgraft.core.names import around
from torchgraft.core.places import is_spread
from torchgraft.tuning.eval_mode import UPDATED_BUFFERS, ReversibleChange, keep_in_eval
from torchgraft.tuning.fates import (
    Fate,
    Loads,
    ModelTensor,
    Pattern,
    TensorFates,
    pattern_list,
    select_by_pattern,
    sharing_memory,
    tensor_fates,
)
from torchgraft.tuning.masks import hold_rows, restore_after_steps

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

IN_PART = "filled in part: some of its rows are fresh"
UNKNOWN_STATISTICS = "statistics that the checkpoint lacks: they move on"
COUNTER = "num_batches_tracked"


@dataclass(slots=True, eq=False, repr=False)
class Frozen:
    """What was frozen, and how to undo it.

    Attributes:
        names: parameters that get no gradients now (the first name of each tied one).
        held: parameters whose part that the checkpoint filled gets no gradients, while the rest goes on learning.
        modules: paths of the modules that are kept in evaluation mode.
        left: parameters and statistics that could be expected here and still change, each with the reason: also what is
            frozen, and shares memory with a parameter that isn't.
    """

    names: tuple[str, ...]
    held: tuple[str, ...]
    modules: tuple[str, ...]
    left: dict[str, str]
    _partial: tuple[torch.Tensor, ...]
    _undo: list[Callable[[], None]]

    def keep(self, optimizer: Optimizer) -> None:
        """Put what is held in part back after each step of `optimizer`, whatever decay and moments do to it.

        Without this a part is held by gradients of zero alone, and weight decay or moments from before still move it.

        Raises:
            UsageError: nothing that is held in part is among the optimizer's parameters.
        """
        self._undo.append(restore_after_steps(optimizer, self._partial))

    def undo(self) -> None:
        """Put gradient flags, gradients and modes back as they were before; a second call does nothing.

        What another freeze() holds as well stays frozen until both are undone, in whatever order.
        """
        while self._undo:
            self._undo.pop()()

    def __repr__(self) -> str:
        parts = [counted(len(self.names), "parameter")]
        parts += [f"{len(self.held)} held in part"] if self.held else []
        parts.append(f"{counted(len(self.modules), 'module')} in evaluation mode")
        parts += [f"{len(self.left)} left training"] if self.left else []
        return f"<Frozen: {', '.join(parts)}>"


def freeze(  # noqa: PLR0913  # one per choice, all by keyword
    model: nn.Module,
    report: Loads | None = None,
    what: What = "loaded",
    *,
    patterns: Sequence[Pattern] = (),
    modules: Sequence[str] = (),
    partly: Partly = "skip",
    dropout: Dropout = "keep",
) -> Frozen:
    """Freeze parameters of `model`, and keep the statistics that belong to them still through `model.train()`.

    Args:
        model: the model that was loaded; its parameters keep their identity.
        report: what load() returned, or a plan; after several loads a list of theirs, in that order. Without it, `patterns`
            and `modules` alone decide.
        what: "loaded" freezes what the checkpoint filled in full; "all_but_fresh" also what a rule of yours filled
            with a constant.
        patterns: globs (`*` stands for dots, too) or compiled expressions over parameter names and module paths; a
            module stands for all in it. With a report they narrow it down.
        modules: module paths; all in them is frozen, whatever the report says, and without `patterns` nothing else.
        partly: "skip" leaves tensors that were filled in part training, and names them in `left`; "freeze" freezes them;
            "hold" takes the gradient from the part that was filled, and the rest learns. Weight decay and moments move a
            held part all the same: give it no decay (param_groups does), or let `Frozen.keep` put it back. A parameter that
            is spread over processes can't be held in part.
        dropout: "off" also keeps modules of which all parameters are frozen in evaluation mode as a whole, but for statistics
            that the checkpoint lacks.

    Modules made later from a frozen one (say, by convert_sync_batchnorm) don't stay still: freeze after that. Parts are
    held by hooks on parameters, which copies of the model don't have.

    Raises:
        UsageError: an argument makes no sense, selects nothing, or the report is for another model.
    """
    expect_one_of(What, what=what)
    expect_one_of(Partly, partly=partly)
    expect_one_of(Dropout, dropout=dropout)
    globs, paths = pattern_list(patterns, "patterns"), pattern_list(modules, "modules")
    if report is None and not globs and not paths:
        raise UsageError("nothing says what to freeze: give the report of load(), or patterns=, or modules=")
    found = tensor_fates(model, () if report is None else report)
    within = _keys_matching(found, globs, "patterns") if globs else (set() if paths else None)
    named = _keys_matching(found, paths, "modules")
    selection = _Selection(named=named, within=within, reported=report is not None, what=what, partly=partly)
    picked = {tensor.key: tensor for tensor in found.tensors if selection.picks(tensor)}
    parameters = [tensor for tensor in picked.values() if not tensor.is_buffer]
    part = [t for t in found.parameters if t.key not in picked and t.fate is Fate.PARTLY and selection.is_within(t)]
    held = [t for t in part if partly == "hold" and t.tensor.requires_grad]
    _require_whole(held)
    if not parameters and not held:
        raise UsageError(f"nothing to freeze: {_why_nothing(found, report)}")
    frozen = {tensor.key for tensor in parameters}
    left = {t.name: IN_PART for t in part if partly != "hold"} | _sharing_memory_with_trained(found, frozen)
    kept, moving = _modules_to_keep_in_eval(found, frozen, picked.keys(), selection)
    if dropout == "off":
        kept = [*_fully_frozen_modules(found, frozen, moving), *kept]
    stopped = (_stop_gradient(tensor) for tensor in parameters)
    in_part = (hold_rows(t.tensor, t.known) for t in held if t.known)
    undo = _all_or_none(chain(stopped, in_part, (keep_in_eval(found.modules[path], model) for path in kept)))
    return Frozen(
        tuple(t.name for t in parameters),
        tuple(t.name for t in held),
        tuple(kept),
        left | dict.fromkeys(moving, UNKNOWN_STATISTICS),
        tuple(t.tensor for t in held),
        undo,
    )


def _require_whole(held: Iterable[ModelTensor]) -> None:
    """Raise UsageError for a parameter that several processes hold: FSDP sets its gradient where no hook sees it."""
    if spread := [tensor.name for tensor in held if is_spread(tensor.tensor)]:
        raise UsageError(
            f"partly='hold': {listed(spread, 3)} is spread over processes, where no part of it can be held; use 'skip' or "
            "'freeze', or put the part back yourself after each step: loaded_masks() tells which it is"
        )


def _all_or_none(changes: Iterable[Callable[[], None]]) -> list[Callable[[], None]]:
    """Make changes, each of which gives what takes it back, and return all of that; where one fails none stays."""
    undo: list[Callable[[], None]] = []
    try:
        undo.extend(changes)
    except BaseException:  # Ctrl-C, or a module that takes no such flag: the caller would have no way to undo it
        while undo:
            undo.pop()()
        raise
    return undo


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """What is to be frozen: `named` by module; of those `within` patterns (None: of all) what the report says."""

    named: set[int]
    within: set[int] | None
    reported: bool
    what: str
    partly: str

    def is_within(self, tensor: ModelTensor) -> bool:
        return self.within is None or tensor.key in self.within

    def picks(self, tensor: ModelTensor) -> bool:
        if tensor.key in self.named:
            return True
        if not self.reported:
            return self.within is not None and tensor.key in self.within
        if not self.is_within(tensor) or tensor.fate is Fate.FRESH:
            return False
        if tensor.fate is Fate.PARTLY:
            return self.partly == "freeze"
        return tensor.fate is not Fate.CONSTANT or self.what == "all_but_fresh"


def _keys_matching(found: TensorFates, patterns: Sequence[Pattern], argument: str) -> set[int]:
    """Return the keys of tensors that patterns select by any of their names."""
    names = {place.name: tensor.key for tensor in found.tensors for place in tensor.places}
    return {names[name] for name in select_by_pattern(patterns, list(names), found.modules, argument)}


def _why_nothing(found: TensorFates, report: object) -> str:
    if not found.parameters:
        return "the model has no parameters"
    if report is None:
        return "patterns= and modules= select no parameter"
    return "no parameter of the model was loaded in full, or patterns= select none that was"


def _stop_gradient(tensor: ModelTensor) -> Callable[[], None]:
    """Take gradient flag and gradient from a parameter; return what gives them back."""
    parameter = tensor.tensor

    def put_back(before: tuple[bool, torch.Tensor | None]) -> None:
        flag, gradient = before
        parameter.requires_grad_(flag)
        if parameter.grad is None:
            parameter.grad = gradient

    change = ReversibleChange(parameter, "gradient", (parameter.requires_grad, parameter.grad), put_back)
    parameter.requires_grad_(False)
    parameter.grad = None
    return change.undo


def _sharing_memory_with_trained(found: TensorFates, frozen: set[int]) -> dict[str, str]:
    """Return the frozen parameters that change all the same, as they share memory with one that is trained."""
    out: dict[str, str] = {}
    for pair in sharing_memory(found.parameters):
        for tensor, other in (pair, pair[::-1]):
            if tensor.key in frozen and other.key not in frozen and other.tensor.requires_grad:
                out[tensor.name] = f"shares memory with {other.name}, which goes on learning"
    return out


def _modules_to_keep_in_eval(
    found: TensorFates, frozen: set[int], picked: AbstractSet[int], selection: _Selection
) -> tuple[list[str], list[str]]:
    """Return the paths of modules whose statistics are kept, and statistics that go on changing for a reason."""
    owners: dict[str, list[ModelTensor]] = {}
    for tensor in found.buffers:
        for place in tensor.places:
            if place.attr in UPDATED_BUFFERS and place.attr != COUNTER:
                owners.setdefault(place.owner, []).append(tensor)
    kept: dict[int, str] = {}
    moving: list[str] = []
    for path, statistics in owners.items():
        own = list(found.modules[path].parameters(recurse=False))
        if not all(id(p) in frozen for p in own) or not (own or all(t.key in picked for t in statistics)):
            continue
        unknown = [t.name for t in statistics if selection.reported and t.key not in picked]
        if unknown:
            moving.extend(unknown)
        else:
            kept.setdefault(id(found.modules[path]), path)
    return list(kept.values()), moving


def _fully_frozen_modules(found: TensorFates, frozen: set[int], moving: Sequence[str]) -> list[str]:
    """Return the outermost modules that are frozen as a whole and hold no statistics that go on changing."""
    with_moving = {path for name in moving for path in around(name)}
    out: list[str] = []
    whole: set[str] = set()
    for path, module in found.modules.items():
        outer = set(around(path)) - {path}
        own = list(module.parameters())
        if not outer.isdisjoint(out) or not (outer & whole or (own and all(id(p) in frozen for p in own))):
            continue
        whole.add(path)
        if path not in with_moving:
            out.append(path)
    return out
