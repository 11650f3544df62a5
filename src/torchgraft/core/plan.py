"""The whole decision, written down before anything changes: one step per slot, one fate per source tensor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from math import prod
from typing import NamedTuple, Protocol

from torchgraft.core.errors import PlanRefusedError
from torchgraft.core.objections import Objection
from torchgraft.core.policy import Policy, Verdict
from torchgraft.core.proof import Proof
from torchgraft.core.shown import Renderers, Shown
from torchgraft.core.specs import Shape, Slot, TensorSpec
from torchgraft.core.types import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that a load takes beside the model at most, with `undo="auto"`.

    `kept` are old values, needed to put the model back; `working` is what is read and computed at one time.
    """

    kept: int = 0
    working: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.kept + self.working


class Op(Protocol):
    """One tensor transformation: a shape law, a computation, and, where there is one, an inverse."""

    @property
    def rounds(self) -> bool:
        """Whether the output's elements are computed, and rounded to the type of an input."""
        ...

    @property
    def picks(self) -> tuple[Picked, ...]:
        """The part of its input that it takes, axis by axis, where it leaves out the rest; empty: it takes all."""
        ...

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        """Return the spec of the result; raises UsageError when the inputs don't fit."""
        ...

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the result."""
        ...

    def inverse(self, specs: Sequence[TensorSpec]) -> Sequence[Op]:
        """Return one op per input, each taking the result back to that input; raises UsageError where there are none."""
        ...

    def describe(self) -> str:
        """Return a few words for the report: `transpose`, `14x14 -> 16x16 grid, bicubic`."""
        ...

    def to_dict(self) -> dict[str, object]:
        """Return the op as plain data; `torchgraft.ops.from_dict` reads it back."""
        ...


class Certainty(Enum):
    """How sure a match is. CERTAIN: the facts leave no other reading. LIKELY: a stated convention settles it, or one
    reading is far ahead. DOUBT: two or more readings, or one that rests on thin evidence.
    """

    CERTAIN = "certain"
    LIKELY = "likely"
    DOUBT = "doubt"


def least_certain(levels: Iterable[Certainty]) -> Certainty:
    """Return the least sure of several."""
    return max(levels, key=tuple(Certainty).index)


class Action(Enum):
    """What happens to a slot."""

    COPY = "copy"  # one source tensor, unchanged but for a cast
    ADAPT = "adapt"  # through ops that rearrange, join, split, resize or compute
    FRESH = "fresh"  # keeps its initial values


@dataclass(frozen=True, slots=True)
class Feed:
    """One source tensor on its way into a slot, with the ops applied to it alone. `network` is its container path."""

    key: str
    ops: tuple[Op, ...] = ()
    network: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """The part of a slot that a step writes: these indices along `dim`; the other rows stay as they are."""

    dim: int
    indices: tuple[int, ...]


class Picked(NamedTuple):
    """The part of an input that an op takes: these indices along `dim`."""

    dim: int
    indices: range | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """What speaks against a decision: the rule that says so, by the name that the code has for it, and its sentence."""

    rule: str
    text: str

    def __bool__(self) -> bool:
        """Whether anything speaks against it."""
        return bool(self.text)


NO_DOUBT = Doubt("", "")


@dataclass(frozen=True, slots=True)
class Why:
    """The ground of a decision: the rule that made it (a `Ground`), in one sentence, and the evidence for it.

    `doubt` says what is missing where the decision is in doubt, if that isn't what `text` says, and `doubted_by` names the
    rule that says so. As text all of it is shown, a line each.
    """

    rule: str
    text: str
    evidence: tuple[str, ...] = ()
    doubt: str = ""
    doubted_by: str = ""

    def in_doubt(self, doubt: Doubt) -> Why:
        """Return the ground with what speaks against the decision."""
        if (doubt.rule, doubt.text) == (self.doubted_by, self.doubt):
            return self
        return replace(self, doubt=doubt.text, doubted_by=doubt.rule)

    def __str__(self) -> str:
        lines = [f"{self.text} (rule: {self.rule})", *(f"evidence: {said}" for said in self.evidence)]
        if self.doubt:
            lines.append(f"doubt: {self.doubt}" + (f" (rule: {self.doubted_by})" if self.doubted_by else ""))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another reading that the evidence allows: its sources and what speaks for it."""

    keys: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How one slot is filled.

    Each feed is read and goes through its own ops; then `ops` join and change the results (the first takes all
    feeds). With `base` the slot's present value is the first input of `ops` (adapters are added to it). Without feeds
    and ops the slot stays fresh; with ops alone the ops make a constant. `rows` limits what is written; `made` are
    the indices among these that a rule fills (zeros, the mean of the others), not the checkpoint.
    """

    slot: Slot
    feeds: tuple[Feed, ...] = ()
    ops: tuple[Op, ...] = ()
    base: bool = False
    rows: Rows | None = None
    made: Rows | None = None
    why: Why
    certainty: Certainty = Certainty.CERTAIN
    alternatives: tuple[Alternative, ...] = ()
    quiet: bool = False

    @property
    def action(self) -> Action:
        """What happens to the slot."""
        feeds = self.feeds
        if not (feeds or self.ops):
            return Action.FRESH
        plain = not self.ops and len(feeds) == 1 and not feeds[0].ops and self.rows is None and not self.base
        return Action.COPY if plain else Action.ADAPT

    @property
    def known(self) -> Rows | None:
        """The part of the slot whose elements come out of the checkpoint; None when it is the whole, or nothing at all."""
        if self.made is None:
            return self.rows
        made = frozenset(self.made.indices)
        written = self.rows.indices if self.rows else range(self.slot.spec.shape[self.made.dim])
        return Rows(self.made.dim, tuple(at for at in written if at not in made))

    @property
    def filled(self) -> int:
        """Number of elements of the slot that come out of the checkpoint (or out of ops alone, a constant)."""
        if self.rows is None and self.made is None:
            return self.slot.spec.numel if self.feeds or self.ops else 0
        return 0 if self.action is Action.FRESH else prod(result_shape(self.slot.spec.shape, self.known))

    @property
    def renamed(self) -> bool:
        """Whether a single source of another name feeds the slot."""
        return len(self.feeds) == 1 and self.feeds[0].key not in self.slot.names

    def words(self) -> str:
        """Return the ops in words, `split rows 0:64, transpose`; empty for a plain copy."""
        own = [op.describe() for feed in self.feeds[:1] for op in feed.ops]
        return ", ".join([*own, *(op.describe() for op in self.ops)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """A source tensor that feeds no slot, and why. Quiet ones are harmless: counters, indices, masks.

    `same_as` is the source tensor that is used in its place, as it is the same one or holds the same values.
    """

    spec: TensorSpec
    network: str = ""
    why: Why
    quiet: bool = False
    similar: tuple[str, ...] = ()
    same_as: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Elements and bytes that were placed, of all that could be: of the target and of the source."""

    target_elements: int
    target_filled: int
    target_bytes: int
    target_bytes_filled: int
    source_elements: int
    source_used: int

    @property
    def target(self) -> float:
        """Share of the target's elements that the checkpoint fills (1.0 for an empty model)."""
        return self.target_filled / self.target_elements if self.target_elements else 1.0

    @property
    def source(self) -> float:
        """Share of the source's elements that land somewhere (1.0 for an empty source)."""
        return self.source_used / self.source_elements if self.source_elements else 1.0


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(Shown):
    """Exactly one step per slot and one fate per source tensor, with the objections of the policy.

    `network` is the container path that was chosen, `notes` says by which rule, and holds other remarks worth a line.
    `memory` is what loading will take beside the model, where plan() was given a model to look at.
    """

    steps: tuple[Step, ...]
    unused: tuple[Unused, ...] = ()
    objections: tuple[Objection, ...] = ()
    notes: tuple[str, ...] = ()
    origin: str = ""
    format: str = ""
    network: str = ""
    source_specs: Mapping[str, TensorSpec] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    seconds: float = 0.0
    proof: Proof | None = None
    memory: Memory | None = field(default=None, compare=False)
    renderers: Renderers | None = field(default=None, repr=False, compare=False)

    @cached_property
    def by_slot(self) -> Mapping[str, Step]:
        """Steps by the canonical name of their slot."""
        return {step.slot.name: step for step in self.steps}

    @cached_property
    def by_name(self) -> Mapping[str, Step]:
        """Steps by every name of their slot, aliases included."""
        return {name: step for step in self.steps for name in step.slot.names}

    @property
    def fresh(self) -> tuple[Step, ...]:
        """Steps that leave their slot at its initial values, quiet ones left out."""
        return tuple([s for s in self.steps if not (s.feeds or s.ops or s.quiet)])

    @property
    def copied(self) -> tuple[Step, ...]:
        """Steps that copy one source tensor unchanged."""
        return tuple(s for s in self.steps if s.action is Action.COPY)

    @property
    def adapted(self) -> tuple[Step, ...]:
        """Steps that go through ops, or fill only part of their slot."""
        return tuple(s for s in self.steps if s.action is Action.ADAPT)

    @property
    def doubtful(self) -> tuple[Step, ...]:
        """Steps with more than one reading."""
        return tuple(s for s in self.steps if s.certainty is Certainty.DOUBT)

    @property
    def refusals(self) -> tuple[Objection, ...]:
        """Objections that the policy refuses."""
        return tuple(o for o in self.objections if self.policy.verdict(o.kind) is Verdict.REFUSE)

    @property
    def warnings(self) -> tuple[Objection, ...]:
        """Objections that the policy lets pass with a word."""
        return tuple(o for o in self.objections if self.policy.verdict(o.kind) is Verdict.WARN)

    @cached_property
    def coverage(self) -> Coverage:
        """Elements and bytes placed, on both sides. Harmless buffers (quiet) count on neither side."""
        loud = [s for s in self.steps if not (s.quiet and s.action is Action.FRESH) and s.slot.persistent]
        kinds = [(s.slot.spec.shape, s.slot.spec.dtype, bool(s.feeds or s.ops), s.rows, s.made) for s in loud]
        one_of = dict(zip(kinds, loud, strict=True))  # of a hundred thousand steps, most are alike
        target = [(count, one_of[kind]) for kind, count in Counter(kinds).items()]
        dropped = {u.spec.name: u.quiet for u in self.unused if u.network == self.network}
        held = Counter([(s.shape, dropped.get(key)) for key, s in self.source_specs.items()])
        source = [(count * prod(shape), quiet) for (shape, quiet), count in held.items()]
        return Coverage(
            target_elements=sum(count * s.slot.spec.numel for count, s in target),
            target_filled=sum(count * s.filled for count, s in target),
            target_bytes=sum(count * s.slot.spec.nbytes for count, s in target),
            target_bytes_filled=sum(count * s.filled * s.slot.spec.dtype.itemsize for count, s in target),
            source_elements=sum(elements for elements, quiet in source if not quiet),
            source_used=sum(elements for elements, quiet in source if quiet is None) - self._elements_left_out(),
        )

    def _elements_left_out(self) -> int:
        """Return how many elements no step takes, of source tensors that are used in part."""
        parts: defaultdict[str, set[tuple[Picked, ...]]] = defaultdict(set)
        for step in self.steps if self.adapted else ():
            for feed in step.feeds:
                ops = feed.ops or (step.ops if len(step.feeds) == 1 and not step.base else ())
                if feed.network == self.network:
                    parts[feed.key].add(ops[0].picks if ops else ())
        specs = self.source_specs
        return sum(specs[key].numel - _elements_in(specs[key], found) for key, found in parts.items() if key in specs)

    def raise_if_refused(self) -> None:
        """Raise PlanRefusedError with every objection that the policy refuses, all at once."""
        if self.refusals:
            raise PlanRefusedError(self.refusals)


def _elements_in(spec: TensorSpec, parts: set[tuple[Picked, ...]]) -> int:
    """Return how many elements several parts of a tensor have together; all of them where the parts don't tell."""
    axes = {picked.dim for part in parts for picked in part}
    if () in parts or (len(parts) > 1 and len(axes) > 1):
        return spec.numel
    taken = {dim: _count([one.indices for part in parts for one in part if one.dim == dim]) for dim in axes}
    return prod(taken.get(dim, size) for dim, size in enumerate(spec.shape))


def _count(several: Sequence[range | tuple[int, ...]]) -> int:
    """Return how many different indices there are."""
    ranges = [one for one in several if isinstance(one, range)]
    if len(ranges) < len(several):
        return len(set().union(*several))
    count = end = 0
    for one in sorted(ranges, key=lambda one: one.start):
        count, end = count + max(0, one.stop - max(one.start, end)), max(end, one.stop)
    return count


def result_shape(shape: Shape, rows: Rows | None) -> Shape:
    """Return the shape of what a step writes into a slot of `shape`."""
    if rows is None:
        return shape
    return (*shape[: rows.dim], len(rows.indices), *shape[rows.dim + 1 :])
