"""What came of running two models on the same inputs: their outputs, where they part, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchgraft.core.proof import Part
from torchgraft.core.shown import Renderers, Shown
from torchgraft.core.specs import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison:
    """One output of both models. `greatest` is max |a - b|, `relative` that over max |b|, b being the source's.

    Both are infinite where shapes differ or one side has NaN or infinity at a place where the other has not.
    """

    source: str
    target: str
    source_shape: Shape
    target_shape: Shape
    greatest: float
    relative: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One operation of one run: its number among all of them, its name, and where it ran.

    `weights` are names of parameters and buffers that feed it, `shapes` those of its inputs, `settings` its other
    arguments.
    """

    number: int
    total: int
    name: str
    module: str
    kind: str
    weights: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """On each side the first operation whose result has nothing like it on the other; None where there is none.

    `input` is the number of the input at which it was seen, from 0.
    """

    source: Site | None
    target: Site | None
    input: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A likely reason why outputs differ: its kind, the fact with both values, and what to do.

    `kind` is one of `KINDS`. `module` and `source_module` are dotted paths; `source` and `target` the two values.
    """

    kind: str
    text: str
    remedy: str = ""
    module: str = ""
    source_module: str = ""
    source: object = None
    target: object = None


KINDS = (
    "value",  # a tensor differs from what the plan says, in some elements or in all
    "swapped",  # a tensor holds what the plan has for another
    "transposed",  # a tensor holds its planned values transposed
    "order",  # a tensor or an operation has its parts in another order: q, k and v, gate and up
    "scaled",  # a tensor is its planned value times a number
    "not filled",  # a tensor that nothing filled takes part
    "buffer",  # a buffer or table that no file holds differs
    "setting",  # a hyper-parameter of matched modules differs
    "activation",  # another activation function
    "heads",  # another number of attention heads
    "padding",  # another way of padding
    "rotary",  # another base or layout of rotary positions
    "scale",  # another constant factor
    "mode",  # training mode or dropout
    "structure",  # another operation, or another order of operations
    "failure",  # the model raised an error
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifference:
    """A hyper-parameter in which two matched modules differ. `matters`: it can change outputs in evaluation mode."""

    name: str
    module: str
    source_module: str
    target: object
    source: object
    matters: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Hyperparameters(Shown):
    """All settings in which the matched modules of two models differ; `compared` pairs of modules were looked at."""

    differences: tuple[SettingDifference, ...]
    compared: int
    renderers: Renderers | None = field(default=None, repr=False, compare=False)

    @property
    def equal(self) -> bool:
        """Whether no setting differs that can change outputs."""
        return not any(one.matters for one in self.differences)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verification(Shown):
    """Whether two models compute the same on some inputs, and if not, where they part and why.

    `inputs` is the number of inputs, `tolerance` the greatest relative difference that passes. `finished`: the model ran to
    its end on each input that it was run on, up to the first on which outputs differ. `operations` are how
    many the source and the target ran, `matched` how many results of the target the source has, too. `settings` are
    those in which matched modules differ, whether or not that was seen in the outputs. `parts` say of the tensors that the
    plan placed by which means each is proved, `unproved` are those that are in none.
    """

    outputs: tuple[OutputComparison, ...]
    inputs: int
    tolerance: float
    finished: bool = True
    divergence: Divergence | None = None
    causes: tuple[Cause, ...] = ()
    settings: tuple[SettingDifference, ...] = ()
    operations: tuple[int, int] = (0, 0)
    matched: int = 0
    parts: tuple[Part, ...] = ()
    unproved: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    renderers: Renderers | None = field(default=None, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """Whether the model ran on all inputs, and all outputs agree within the tolerance."""
        return self.finished and bool(self.outputs) and all(one.passed for one in self.outputs)

    @property
    def complete(self) -> bool:
        """Whether every tensor that the plan placed is proved by some means; `passed` is about the whole models."""
        return bool(self.parts) and not self.unproved

    @property
    def relative(self) -> float:
        """The greatest relative difference of all outputs; infinite where there is nothing to compare."""
        return max((one.relative for one in self.outputs), default=float("inf"))
