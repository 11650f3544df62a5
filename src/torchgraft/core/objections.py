"""What speaks against a plan, or against going on with a load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Objection:
    """Something that speaks against applying the plan.

    `kind` is a Policy field (doubt, missing, unused, lossy, coverage, nonfinite, container, conflict, quantised, ...).
    `fact` has both sides with shapes, `remedy` what settles it ("" where nothing does, or where the fact says it itself).
    `names` are the slots or source keys concerned.
    """

    kind: str
    fact: str
    names: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def text(self) -> str:
        """The fact and its remedy in one sentence."""
        return f"{self.fact}; {self.remedy}" if self.remedy else self.fact
