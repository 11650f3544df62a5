"""What a plan says that each tensor of the model holds, computed anew from the source, and how the model differs."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from itertools import permutations

from torchgraft.core.grounds import Ground
from torchgraft.core.places import places
from torchgraft.core.plan import Action, Plan, Step
from torchgraft.core.results.verification import Cause
from torchgraft.core.types import Module, Tensor
from torchgraft.core.values import agreeing, rows_of
from torchgraft.ops import run_step

CLOSE = 1e-6  # relative to the greatest entry
FEW = 0.02  # of the elements


class PlannedValues:
    """The planned values of a model's tensors, each made from the source's when it is asked for."""

    def __init__(self, plan: Plan, target: Module, source: Module | None) -> None:
        self.plan = plan
        self.target = {place.name: place.tensor for place in places(target)}
        self.source = {place.name: place.tensor for place in places(source)} if source is not None else {}

    def expected(self, step: Step) -> Tensor | None:
        """Return what the plan puts into a slot; None where that is unknown (fresh, added to, not in the source)."""
        present = step.slot.name in self.target and all(feed.key in self.source for feed in step.feeds)
        if step.action is Action.FRESH or step.base or not present:
            return None
        return run_step(step, lambda feed: self.source[feed.key].detach().to("cpu"))[0]

    def fed_by(self, name: str) -> set[str]:
        """Return all names of the source's tensors that a tensor of the model is planned to be made of."""
        step = self.plan.by_name.get(name)
        made_of = {id(self.source[feed.key]) for feed in (step.feeds if step else ()) if feed.key in self.source}
        return {key for key, tensor in self.source.items() if id(tensor) in made_of}

    def actual(self, step: Step) -> Tensor:
        """Return the part of the model's tensor that the plan writes."""
        return rows_of(self.target[step.slot.name].detach().to("cpu"), step.rows)

    @cached_property
    def deviating_steps(self) -> list[Step]:
        """The steps whose slots hold something else than planned. Looks at all values, once."""
        return [
            step
            for step in self.plan.steps
            if (expected := self.expected(step)) is not None and not _equal(expected, self.actual(step))
        ]

    def unfilled_steps(self, names: Collection[str]) -> list[Step]:
        """Return the steps of slots with these names that stay fresh, and deserve a word."""
        steps = dict.fromkeys(self.plan.by_name[name] for name in sorted(names) if name in self.plan.by_name)
        return [step for step in steps if step.action is Action.FRESH and step.slot.persistent and not step.quiet]

    def cause(self, step: Step) -> Cause:
        """Return how the value of a slot differs from the planned one."""
        expected, actual = self.expected(step), self.actual(step)
        name = step.slot.name
        if expected is None:
            return self._unfilled_cause(step)
        sources = ", ".join(feed.key for feed in step.feeds[:3])
        plan = f"the plan fills it from {sources}" + (f" ({words})" if (words := step.words()) else "")
        kind, fact = self._describe(step, expected, actual)
        return Cause(
            kind=kind,
            text=f"{name} {fact}; {plan}",
            remedy="load again by the plan, or correct the plan with rename=",
            module=step.slot.owner,
            source_module=step.feeds[0].key.rpartition(".")[0] if step.feeds else "",
            target=name,
            source=sources,
        )

    def _unfilled_cause(self, step: Step) -> Cause:
        name = step.slot.name
        return Cause(
            kind="not filled",
            text=f"{name} was not filled: {step.why.text}",
            module=step.slot.owner,
            target=name,
            remedy=_way_to_fill(step),
        )

    def _describe(self, step: Step, expected: Tensor, actual: Tensor) -> tuple[str, str]:
        """Return the kind of cause, and what a tensor holds in place of its planned values."""
        import torch

        if expected.shape == actual.shape:
            if actual.dim() == 2 and actual.shape[0] == actual.shape[1] and _equal(expected.T, actual):
                return "transposed", "holds its planned values transposed"
            if other := self._planned_elsewhere(step, actual):
                return "swapped", f"holds what the plan has for {other}"
            if parts := _reordered(expected, actual):
                return "order", f"holds its {len(parts)} parts in the order {', '.join(str(p + 1) for p in parts)}"
            differing = int((~_close(expected, actual)).sum())
            if differing <= max(1, FEW * actual.numel()):
                return "value", f"differs from its planned values in {differing} of {actual.numel()} elements"
            ratio = (actual.double() * expected.double()).sum() / (expected.double() ** 2).sum().clamp_min(1e-300)
            if bool(torch.allclose(actual.double(), expected.double() * ratio, rtol=1e-4, atol=1e-12)):
                return "scaled", f"is its planned value times {float(ratio):.6g}"
        return "value", "holds other values than planned"

    def _planned_elsewhere(self, step: Step, actual: Tensor) -> str | None:
        """Return the name of another slot whose planned values these are."""
        for other in self.plan.steps:
            if other is step or other.slot.spec.shape != step.slot.spec.shape:
                continue
            expected = self.expected(other)
            if expected is not None and _equal(expected, actual):
                return other.slot.name
        return None


def _close(expected: Tensor, actual: Tensor) -> Tensor:
    cast = expected.to(actual.dtype)
    if not actual.is_floating_point():
        return cast == actual
    size = float(cast.abs().max()) if cast.numel() else 0.0
    return ((cast - actual).abs() <= CLOSE * size) | agreeing(cast, actual)


def _equal(expected: Tensor, actual: Tensor) -> bool:
    import torch

    if expected.shape != actual.shape:
        return False
    return (expected.dtype == actual.dtype and torch.equal(expected, actual)) or bool(_close(expected, actual).all())


def _reordered(expected: Tensor, actual: Tensor) -> tuple[int, ...] | None:
    """Return the order in which `actual` has the equal parts (two, three or four) of `expected`; None if it hasn't."""
    import torch

    for dim in range(min(2, actual.dim())):
        for count in (2, 3, 4):
            if actual.shape[dim] % count or actual.shape[dim] < 2 * count:
                continue
            parts = expected.chunk(count, dim)
            for order in permutations(range(count)):
                if order != tuple(range(count)) and _equal(torch.cat([parts[i] for i in order], dim), actual):
                    return order
    return None


def _way_to_fill(step: Step) -> str:
    """Return what fills a slot; nothing where the caller wants it so. Of a source that doesn't fit the name is known."""
    if step.why.rule == Ground.USER_RULE:
        return ""
    named = "" if step.why.rule == Ground.SHAPE else "name its source with rename=, or "
    return f"{named}give {step.slot.name} its value by hand"
