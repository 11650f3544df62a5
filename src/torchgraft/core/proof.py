"""What running two models on the same inputs showed: that they give the same, or which parts of them do."""

from __future__ import annotations

from dataclasses import dataclass

OWN = "the model's own forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Values inside of both models that agree entry by entry, and the tensors that they are made with.

    `module` and `source_module` are dotted paths: where the values come out. `relative` is max |a - b| over max |b|, b
    being the source's. `apart`: two modules were run on their own, on the same input, `root` being the source's; that shows
    that what is in them fits together, and not that they stand in the same place of the whole.
    """

    module: str
    source_module: str
    slots: tuple[str, ...]
    relative: float
    apart: bool = False
    root: str = ""

    def words(self) -> str:
        """Return it in words: `proved up to layer4.1 (source: stages.3.1), max rel. diff 3e-07`."""
        both = [path or OWN for path in (self.module, self.source_module)]
        names = both[0] if both[0] == both[1] else f"{both[0]} (source: {both[1]})"
        how = "proved on its own" if self.apart else "proved up to"
        return f"{how} {names}, max rel. diff {self.relative:.1g}"


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
    the whole is proved. Where not, `parts` agree, `unproved` are filled tensors in none of them, and `reason` says why
    outputs can't be compared, if they can't, or what else is to be known.
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
        """Whether the whole is proved, or all filled tensors are in parts that agree where they stand."""
        return self.passed or (bool(self.parts) and not self.unproved and not any(part.apart for part in self.parts))

    def words(self) -> str:
        """Return it in words: `proved on 1 input, max rel. diff 3e-07`."""
        said = self._said()
        return f"when the plan was made, {said}" if self.kept else said

    def _said(self) -> str:
        many = f"{self.inputs} input{'s' * (self.inputs != 1)}"
        if self.passed:
            more = f"; {self.reason}" if self.reason else ""
            return f"proved on {many}, max rel. diff {self.relative:.1g}{more}"
        differ = self.reason or f"outputs differ, max rel. diff {self.relative:.1g}"
        if not self.parts:
            on = f" on {many}" if self.inputs else ""
            return f"not proved{on}: {differ}"
        return "; ".join(["proved in parts, not as a whole", *self._parts(), differ])

    def _parts(self) -> list[str]:
        """Return what is proved in place, what apart, and what is not, each in words."""
        said = []
        for apart, how in ((False, "where they stand"), (True, "each part on its own")):
            parts = [part for part in self.parts if part.apart is apart]
            if parts:
                count = len({slot for part in parts for slot in part.slots})
                worst = max(part.relative for part in parts)
                names = [part.module or OWN for part in parts]
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                said.append(f"{count} tensors {how} ({', '.join(names[:3])}{more}), max rel. diff {worst:.1g}")
        if self.unproved:
            more = f" and {len(self.unproved) - 3} more" if len(self.unproved) > 3 else ""
            said.append(f"in no part: {', '.join(self.unproved[:3])}{more}")
        return said
