"""What the caller accepts: a verdict for each kind of objection."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import Enum

from torchgraft.core.errors import UsageError

# Kinds of objections to what a checkpoint's values are; all others are to what a plan decides.
VALUE_KINDS = ("nonfinite", "lossy", "infinite", "buffers", "suspect")


def expect_share(value: object) -> None:
    """Raise UsageError unless `value` is a least coverage."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise UsageError(f"min_coverage={value!r}: use a share between 0 and 1")


class Verdict(Enum):
    """What becomes of an objection."""

    REFUSE = "refuse"
    WARN = "warn"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A verdict for each kind of objection, and the least coverage.

    Attributes:
        outputs: with `inputs=`, the filled model gives other outputs than the source's.
        doubt: a slot with two readings, or one on thin evidence. `on_doubt="skip"` and `"take"` make it a warning.
        missing: slots that stay fresh though the caller didn't say so.
        unused: source tensors without a slot.
        lossy: a cast that changes values beyond rounding: overflow, or everything becomes zero.
        coverage: less than `min_coverage` of the elements of both sides find a place.
        nonfinite: NaN or infinities in the file.
        low_coverage: less than half of both sides finds a place, or the file is of another variant of the model.
        container: several networks in the file fit, and no rule chooses one.
        conflict: two source tensors with different values claim one slot.
        quantised: packed weights that can't be decoded.
        partial: the file holds a share of the weights only.
        adapters: adapters in the file are not merged, or are merged a second time.
        rotary: the names are of different conventions for the order of rotary rows.
        infinite: a buffer without a single finite value.
        buffers: derived buffers that contradict the model or themselves.
        suspect: what `statistics=True` finds strange.
        min_coverage: the least share of elements that must find a place, on the better of the two sides, from 0 to 1.
    """

    outputs: Verdict = Verdict.REFUSE
    doubt: Verdict = Verdict.REFUSE
    missing: Verdict = Verdict.ACCEPT
    unused: Verdict = Verdict.ACCEPT
    lossy: Verdict = Verdict.REFUSE
    coverage: Verdict = Verdict.REFUSE
    nonfinite: Verdict = Verdict.REFUSE
    low_coverage: Verdict = Verdict.WARN
    container: Verdict = Verdict.REFUSE
    conflict: Verdict = Verdict.REFUSE
    quantised: Verdict = Verdict.REFUSE
    partial: Verdict = Verdict.REFUSE
    adapters: Verdict = Verdict.WARN
    rotary: Verdict = Verdict.WARN
    infinite: Verdict = Verdict.WARN
    buffers: Verdict = Verdict.WARN
    suspect: Verdict = Verdict.WARN
    min_coverage: float = 0.05

    def __post_init__(self) -> None:
        for kind in fields(self):
            value = getattr(self, kind.name)
            if kind.name == "min_coverage":
                expect_share(value)
            elif not isinstance(value, Verdict):
                choices = ", ".join(f"Verdict.{verdict.name}" for verdict in Verdict)
                raise UsageError(f"Policy({kind.name}={value!r}): use one of {choices}")

    def overruled(self, values: Policy) -> Policy:
        """Return this policy with the verdicts of another on what values show: those of VALUE_KINDS.

        Raises:
            UsageError: the other one also says something of what a plan decides.
        """
        usual = Policy()
        others = [f.name for f in fields(self) if f.name not in VALUE_KINDS]
        said = [name for name in others if getattr(values, name) not in (getattr(usual, name), getattr(self, name))]
        if said:
            raise UsageError(
                f"plan= holds all decisions: policy= beside it is for what values show ({', '.join(VALUE_KINDS)}), and says "
                f"{', '.join(said)}, too; plan again with this policy"
            )
        return replace(self, **{name: getattr(values, name) for name in VALUE_KINDS})

    def verdict(self, kind: str) -> Verdict:
        """Return the verdict on objections of `kind`.

        Raises:
            UsageError: there is no such kind.
        """
        verdict = getattr(self, kind, None)
        if not isinstance(verdict, Verdict):
            msg = f"no verdict for objections of kind {kind[:60]!r}"
            raise UsageError(msg)
        return verdict
