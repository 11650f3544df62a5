"""Proof by parts, where the whole can't be proved: values inside of both models, and modules that are run on their own."""

from __future__ import annotations

import inspect
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from torchgraft.core.places import modules
from torchgraft.core.plan import Certainty, Why
from torchgraft.core.proof import Part
from torchgraft.verifying.comparing import coarsest
from torchgraft.verifying.divergence import FLOORS
from torchgraft.verifying.guessing import guessed_inputs
from torchgraft.verifying.settling.agreeing import Measure, Runs, Side, agreements
from torchgraft.verifying.settling.hands import Hands
from torchgraft.verifying.settling.naming import Cached
from torchgraft.verifying.settling.rowwise import picked_rows, row_agreements
from torchgraft.verifying.tracing.capture import arguments_of, as_call, runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torchgraft.core.plan import Plan, Step
    from torchgraft.core.specs import Source
    from torchgraft.verifying.settling.agreeing import Agreed
    from torchgraft.verifying.settling.trial import Trial

MOST_PAIRS = 40


def prove_parts(plan: Plan, source: Source, trial: Trial) -> Plan:
    """Return the plan with what can be proved of a model whose outputs prove nothing; nothing is left changed.

    First the runs of the wholes are compared, value by value; then modules whose tensors come from one module of the
    source are run on their own. Tensors of what agrees where it stands are certain; of what agrees on its own, those
    whose every other reading lies in the same module.
    """
    proof = plan.proof
    if trial.origin is None or proof is None or proof.passed:
        return plan
    kind = coarsest(*(run.outputs for run in trial.sources))
    with Hands(trial.model, Cached(source)) as hands:
        for step in plan.steps:
            if step.feeds or step.ops:
                hands.fill(step)
        proving = Parts(
            model=trial.model,
            origin=trial.origin,
            steps=plan.by_slot,
            keys=trial.keys,
            shapes={key: spec.shape for key, spec in plan.source_specs.items()},
            measure=Measure(FLOORS[kind], proof.tolerance),
        )
        with hands.interruptible():
            for mine, theirs in zip(trial.inputs, trial.source_inputs, strict=True):
                proving.in_place(mine, theirs)
            proving.apart(trial.source_inputs)
    shown = {name: part for part in proving.parts for name in part.slots}
    steps = tuple(_marked(step, shown.get(step.slot.name), trial.keys) for step in plan.steps)
    return replace(
        plan, steps=steps, proof=replace(proof, parts=tuple(proving.parts), unproved=tuple(sorted(proving.left)))
    )


def sure(step: Step, words: str) -> Step:
    """Return a step that numbers have proved, in these words; where other rows stay as they are, only with the words.

    Rows that nothing fills took no part, or nobody knows what they should be: whether they may stay is as open as before.
    """
    said = _said(step, words)
    return (
        said
        if step.known is not None
        else replace(said, certainty=Certainty.CERTAIN, alternatives=(), why=replace(said.why, doubt=""))
    )


def _said(step: Step, words: str) -> Step:
    return replace(step, why=Why(step.why.rule, step.why.text, (*step.why.evidence, words), step.why.doubt))


def _marked(step: Step, part: Part | None, keys: Mapping[str, str]) -> Step:
    """Return a step with what a part shows of it."""
    if part is None:
        return step
    proved = not part.apart or (step.alternatives and _settled(step, part, keys))
    return sure(step, part.words()) if proved else _said(step, part.words())


def _settled(step: Step, part: Part, keys: Mapping[str, str]) -> bool:
    """Whether all readings of a step lie in the module of the source that was run on its own."""
    head = f"{part.root}." if part.root else ""
    inside = {key for name, key in keys.items() if name.startswith(head)}
    return all(set(other.keys) <= inside for other in step.alternatives)


@dataclass(slots=True, kw_only=True)
class Parts:
    """A target that is filled by steps, and the source's model, to be compared part by part.

    `keys` maps names of the source's model to keys of the checkpoint, `shapes` has those of its tensors. `parts` grow as more is proved; `left` are the
    filled slots that are in none.
    """

    model: nn.Module
    origin: nn.Module
    steps: Mapping[str, Step]
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    measure: Measure
    parts: list[Part] = field(default_factory=list)
    left: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.left = {
            name for name, step in self.steps.items()
            if step.feeds and step.slot.persistent and step.slot.spec.dtype.is_float
        }  # fmt: skip

    def in_place(self, given: Any, source_given: Any) -> None:
        """Compare what runs of both models give on the way."""
        self._compare("", "", Side(self.origin, source_given), Side(self.model, given), apart=False)

    def apart(self, source_given: Sequence[Any]) -> None:
        """Run pairs of modules on their own, the largest first, until every filled slot is in a part or none is left."""
        for pair in list(self._pairs())[:MOST_PAIRS]:
            if not self.left:
                return
            if not self.left.isdisjoint(pair.slots):
                self._run_apart(pair, source_given)

    def _run_apart(self, pair: Pair, source_given: Sequence[Any]) -> None:
        mine, theirs = self.model.get_submodule(pair.module), self.origin.get_submodule(pair.source_module)
        for source, target in _inputs(self.origin, theirs, mine, source_given):
            before = len(self.left)
            self._compare(pair.module, pair.source_module, Side(theirs, source), Side(mine, target), apart=True)
            if len(self.left) < before:
                return

    def _compare(self, path: str, source_path: str, source: Side, target: Side, *, apart: bool) -> None:
        names = {alias: name for name, step in self.steps.items() for alias in step.slot.names}
        head = f"{path}." if path else ""
        wanted = frozenset(
            a.removeprefix(head) for a, name in names.items() if name in self.left and a.startswith(head)
        )
        ran = Runs.of(source, target, self.measure)

        def note(found: Iterable[Agreed]) -> None:
            for one in found:
                slots = {names[head + weight] for weight in one.weights} & self.left
                self.left -= slots
                if slots:
                    part = Part(
                        module=_joined(path, one.module),
                        source_module=_joined(source_path, one.source_module),
                        slots=tuple(sorted(slots)),
                        relative=one.relative,
                        apart=apart,
                        root=source_path if apart else "",
                    )
                    self.parts.append(part)

        note(agreements(ran, wanted))
        rest = {w: self.steps[names[head + w]] for w in wanted if names[head + w] in self.left}
        picks = {w: picked_rows(step, self.shapes) for w, step in rest.items()}
        note(row_agreements(ran, {w: pick for w, pick in picks.items() if pick is not None}))

    def _pairs(self) -> Iterator[Pair]:
        """Yield modules of the target with the module of the source that all their tensors come from, the largest first."""
        homes: defaultdict[str, list[str]] = defaultdict(list)
        for name, key in self.keys.items():
            homes[key].append(name)
        theirs = dict(modules(self.origin))
        found = []
        for path, module in modules(self.model):
            head = f"{path}." if path else ""
            slots = tuple(
                n for n, s in self.steps.items() if n in self.left and any(a.startswith(head) for a in s.slot.names)
            )
            names = [home for n in slots for feed in self.steps[n].feeds for home in homes.get(feed.key, ())[:1]]
            if not slots or not names or not _runs_at_all(module):
                continue
            at = next((at for at in _upwards(_common(names)) if _runs_at_all(theirs.get(at))), None)
            if at is not None and (path or at):
                found.append(Pair(path, at, slots))
        yield from sorted(found, key=lambda pair: -len(pair.slots))


class Pair(NamedTuple):
    """A module of the target, one of the source, and the slots that come from it."""

    module: str
    source_module: str
    slots: tuple[str, ...]


def _inputs(origin: nn.Module, theirs: nn.Module, mine: nn.Module, given: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield inputs of two modules that hold the same: what the source's was called with in its run; else guesses."""
    known = False
    for one in given:
        arguments = ((one,), {}) if theirs is origin else arguments_of(origin, one, theirs)
        if arguments is None:
            continue
        source = one if theirs is origin else as_call(arguments)
        for form in _as_taken(mine, source, arguments):
            if runs(mine, form):
                known = True
                yield source, form
    if not known:
        yield from guessed_inputs(theirs, mine)


def _as_taken(module: nn.Module, same: Any, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[Any]:
    """Yield ways in which a module may take the arguments of another."""
    yield same
    args, kwargs = arguments
    known = inspect.signature(module.forward).parameters
    both = {name: value for name, value in kwargs.items() if name in known}
    if both != kwargs:
        yield as_call((args, both))
    main = next((one for one in (*args, *kwargs.values()) if hasattr(one, "dtype")), None)
    if main is not None:
        yield as_call(((main,), {}))


def _runs_at_all(module: nn.Module | None) -> bool:
    """Whether a module has a forward method of its own: lists and dictionaries of modules have none."""
    return module is not None and type(module).forward is not nn.Module.forward


def _common(names: Sequence[str]) -> str:
    """Return the dotted path of the innermost module that holds all these tensors."""
    split = [name.split(".")[:-1] for name in names]
    common = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        common.append(segments[0])
    return ".".join(common)


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those of the modules around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _joined(path: str, inner: str) -> str:
    return f"{path}.{inner}" if path and inner else path or inner
