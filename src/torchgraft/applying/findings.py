"""What the values themselves say against loading them: NaN, infinities, casts that overflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torchgraft.applying.finite import Nonfinite
from torchgraft.core.errors import PlanRefusedError
from torchgraft.core.formatting import listed, tensors
from torchgraft.core.objections import Objection
from torchgraft.core.plan import Step
from torchgraft.core.policy import Policy, Verdict
from torchgraft.core.specs import Slot


@dataclass(frozen=True, slots=True)
class _Finding:
    """What one slot's values say: `fact` of this slot, then `rest` and `remedy`, which are the same for all that are alike."""

    slot: Slot
    kind: str
    alike: str
    fact: str
    rest: str = ""
    remedy: str = ""


class Findings:
    """Collects objections while values pass by; may be added to from several threads."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._found: list[_Finding] = []
        self.checks_finite = policy.nonfinite is not Verdict.ACCEPT
        self.checks_loss = policy.lossy is not Verdict.ACCEPT
        self.checks_vanished = policy.suspect is not Verdict.ACCEPT

    def nonfinite(self, step: Step, count: Nonfinite) -> None:
        """Note NaN and infinities on their way into a slot. Infinities in buffers are usual: masks are made of them.

        A buffer of nothing else is a normaliser that was never set.
        """
        slot = step.slot
        if slot.is_buffer and count.inf == slot.spec.numel:
            self.infinite(
                slot, f"gets nothing but infinite values from {step.feeds[0].key if step.feeds else 'the plan'}"
            )
            return
        parts = [f"{count.nan} NaN"] if count.nan else []
        if count.inf and not slot.is_buffer:
            parts.append(f"{count.inf} infinite")
        if not parts:
            return
        sources = ", ".join(feed.key for feed in step.feeds) or "computed values"
        fact = (
            f"{slot.name} {list(slot.spec.shape)} would get {' and '.join(parts)} "
            f"value{'s' * (count.nan + count.inf != 1)} from {sources}"
        )
        remedy = "take another checkpoint, or allow it with policy=tg.Policy(nonfinite=tg.Verdict.ACCEPT)"
        alike = " ".join(part.partition(" ")[2] for part in parts)
        rest = ": training diverged or the file is damaged"
        self._found.append(_Finding(slot, "nonfinite", alike, fact, rest, remedy))

    def infinite(self, slot: Slot, fact: str) -> None:
        """Note a buffer without a single finite value."""
        told = f"{slot.name} {list(slot.spec.shape)} {fact}"
        remedy = "set them before you use the model"
        self._found.append(_Finding(slot, "infinite", fact, told, ": statistics that were never set", remedy))

    def changed_along(self, slot: Slot, others: Sequence[str]) -> None:
        """Note a slot that the checkpoint doesn't fill, and that changed with `others`, whose memory it shares."""
        shared = f"shares memory with {listed(others, 3)}"
        fact = f"{slot.name} {list(slot.spec.shape)} is not filled, and {shared}"
        self._found.append(_Finding(slot, "buffers", shared, fact, ": its values changed with those"))

    def lost(self, step: Step, count: int, given: str) -> None:
        """Note values that the slot's element type can't hold."""
        slot = step.slot
        fact = (
            f"{slot.name} is {slot.spec.dtype}, and {count} of its {slot.spec.numel} values, {given} in the checkpoint, "
            "do not fit into that type"
        )
        remedy = "give the model a wider type, or allow it with policy=tg.Policy(lossy=tg.Verdict.ACCEPT)"
        self._found.append(_Finding(slot, "lossy", f"{slot.spec.dtype} {given}", fact, remedy=remedy))

    def vanished(self, step: Step, given: str) -> None:
        """Note a tensor of which nothing is left: every value but zero is too small for the slot's element type."""
        slot = step.slot
        fact = (
            f"{slot.name} {list(slot.spec.shape)} is {slot.spec.dtype}, and all of its values, {given} in the checkpoint, are "
            "so small that they become 0 in that type"
        )
        alike, remedy = f"{slot.spec.dtype} {given}", "give the model a wider type"
        self._found.append(_Finding(slot, "suspect", alike, fact, remedy=remedy))

    def added_again(self, slot: Slot) -> None:
        """Note a slot whose values hold already what is added to them."""
        rest = ": this adapter was merged into it before, and is now added once more"
        remedy = "load the weights anew and merge once"
        self._found.append(_Finding(slot, "adapters", "", slot.name, rest, remedy))

    def raise_if_refused(self) -> tuple[Objection, ...]:
        """Return the findings that the policy lets pass with a word.

        Raises:
            PlanRefusedError: the policy refuses some; all of them at once.
        """
        found = tuple(self._objections())
        refused = [o for o in found if self._policy.verdict(o.kind) is Verdict.REFUSE]
        if refused:
            raise PlanRefusedError(refused)
        return found

    def _objections(self) -> Iterator[Objection]:
        """Yield one objection for all slots of which the same is to be said, told by the first of them."""
        groups: dict[tuple[str, str], list[_Finding]] = {}
        for one in sorted(self._found, key=lambda one: one.slot.order):
            groups.setdefault((one.kind, one.alike), []).append(one)
        for (kind, _), (first, *others) in groups.items():
            more = [one.slot.name for one in others]
            likewise = f"; likewise {tensors(len(more))} more: {listed(more)}" if more else ""
            yield Objection(kind, f"{first.fact}{likewise}{first.rest}", (first.slot.name, *more), first.remedy)
