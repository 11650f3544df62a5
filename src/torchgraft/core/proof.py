"""What running two models on the same inputs showed: of which tensors, and by which means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

OWN = "the model's own forward"


class Means(StrEnum):
    """By what a tensor is proved, the strongest first."""

    OUTPUTS = "outputs"  # outputs of the whole agree, and would not if the tensor were another
    PLACE = "in place"  # a value inside of both runs agrees entry by entry
    APART = "apart"  # two modules that were run on their own give the same
    IDLE = "idle"  # its value is the planned one, computed anew, and no run makes use of it: counters, statistics of training
    VALUE = "value"  # its value is the planned one, computed anew; what is made of it could not be compared


# What a tensor is proved to be, where a proof of several means tells how many are proved by each.
_HOW = {
    Means.OUTPUTS: "by outputs of the whole",
    Means.PLACE: "where they stand",
    Means.APART: "by modules run on their own, not where they stand",
    Means.IDLE: "by value, without part in the run",
    Means.VALUE: "by value alone, as the plan pairs them",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Tensors that are proved together, and by which means.

    `module` and `source_module` are dotted paths: where the values that agree come out. `relative` is max |a - b| over max |b|,
    b being the source's. With `means` APART two modules were run on their own, on the same input, `root` being the
    source's; that shows that what is in them fits together, and not that they stand in the same place of the whole. With IDLE
    and VALUE no runs were compared, only the tensors.
    """

    module: str
    source_module: str
    slots: tuple[str, ...]
    relative: float
    means: Means = Means.PLACE
    root: str = ""

    def words(self) -> str:
        """Return it in words: `proved up to layer4.1 (source: stages.3.1), max rel. diff 3e-07`."""
        if self.means in (Means.IDLE, Means.VALUE):
            return f"proved {_HOW[self.means]}"
        both = [path or OWN for path in (self.module, self.source_module)]
        names = both[0] if both[0] == both[1] else f"{both[0]} (source: {both[1]})"
        how = "proved on its own" if self.means is Means.APART else "proved up to"
        return f"{how} {names}, max rel. diff {self.relative:.1g}"


def tally(parts: tuple[Part, ...], unproved: tuple[str, ...] = ()) -> list[str]:
    """Return in words how many tensors are proved, how many by each means, and which are not."""
    by_means = {means: found for means in Means if (found := [part for part in parts if part.means is means])}
    proved = len({slot for part in parts for slot in part.slots})
    if len(by_means) == 1 and not unproved:
        ((means, found),) = by_means.items()
        return [f"{_all(proved)}, {_by(means, found)}"]
    said = [f"{proved} of {proved + len(unproved)} tensors placed" if unproved else _all(proved)]
    said += [
        f"{len({s for part in found for s in part.slots})} {_by(means, found)}" for means, found in by_means.items()
    ]
    if unproved:
        more = f" and {len(unproved) - 3} more" if len(unproved) > 3 else ""
        said.append(f"not proved: {', '.join(unproved[:3])}{more}")
    return said


def _all(count: int) -> str:
    return "the one tensor placed" if count == 1 else f"all {count} tensors placed"


def _by(means: Means, parts: list[Part]) -> str:
    """Return in words by which means parts are proved, where, and how near both sides are."""
    words = _HOW[means]
    if means in (Means.PLACE, Means.APART):
        names = list(dict.fromkeys(part.module or OWN for part in parts))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        words += f" ({', '.join(names[:3])}{more})"
    worst = max(part.relative for part in parts)
    return words if means is Means.OUTPUTS or not worst else f"{words}, max rel. diff {worst:.1g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """SHA-256 (hex) of what a proof holds for: inputs (empty for callables), steps, and the values that these read."""

    inputs: str
    steps: str
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What running both models on the same inputs came to.

    `relative` is the greatest relative difference of their outputs, `passed` whether it is within the tolerance: only then
    the whole is proved. `parts` say of each tensor that was placed by which means it is proved, `unproved` are those that
    are in none, and `reason` says why outputs can't be compared, if they can't, or what else is to be known.
    `kept`: it was made before, for the same steps and values by its `seal`, and the models were not run again.
    """

    inputs: int
    relative: float
    tolerance: float
    passed: bool
    parts: tuple[Part, ...] = ()
    unproved: tuple[str, ...] = ()
    reason: str = ""
    seal: Seal | None = None
    kept: bool = False

    @property
    def complete(self) -> bool:
        """Whether every tensor that was placed is proved by some means; `passed` is about the whole models."""
        return bool(self.parts) and not self.unproved

    @property
    def stands(self) -> bool:
        """Whether every tensor that was placed and takes part in the run is proved where it stands."""
        return self.complete and not any(part.means in (Means.APART, Means.VALUE) for part in self.parts)

    def words(self) -> str:
        """Return it in words: `proved on 1 input, max rel. diff 3e-07: all 3 tensors placed, by outputs of the whole`."""
        said = self._in_words()
        return f"when the plan was made, {said}" if self.kept else said

    def headline(self) -> str:
        """Return what running the wholes came to, in words."""
        many = f"{self.inputs} input{'s' * (self.inputs != 1)}"
        if self.passed:
            return f"proved on {many}, max rel. diff {self.relative:.1g}"
        on = f" on {many}" if self.inputs else ""
        return "proved in parts, not as a whole" if self.parts else f"not proved{on}"

    def _in_words(self) -> str:
        differ = self.reason or ("" if self.passed else f"outputs differ, max rel. diff {self.relative:.1g}")
        if not self.parts:
            return f"{self.headline()}: {differ}" if differ else self.headline()
        said = [f"{self.headline()}: {'; '.join(tally(self.parts, self.unproved))}"]
        return "; ".join([*said, *([differ] if differ else [])])
