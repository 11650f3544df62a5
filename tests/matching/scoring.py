"""What each rule of doubt, and each constant of scoring, decides on small cases of names and shapes: `decisions.json`.

`python tests/matching/scoring.py` works the decisions out anew, from the cases that are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from torchgraft.core.dtypes import DType
from torchgraft.core.specs import TensorSpec
from torchgraft.matching import Models, doubts, match, reviewing
from torchgraft.surveying import target_from_specs

PATH = Path(__file__).with_name("decisions.json")

# The constants that such cases show, by module, and the other modules that import them by name. The others weigh in larger
# networks alone, or no case has been found yet.
CONSTANTS = {
    "evidence.wording": "NEARLY_ALL COMMON STEP_BACK",
    "evidence.order": "ORDERLY",
    "evidence.scores": "STRANGE",
    "judging.certainty": "HINTING AKIN SAME FEW ALONE UNTOLD AROUND MOSTLY MARGIN FAMILIAR",
    "judging.rivals": "NAME_GAP BLOCK_GAP SWAP_GAP HALF",
    "solving.solve": "NAME CLASH LIKENESS BLOCK TAIL ORDER SAME_NUMBER OTHER_SIZES TELLING AT_LAST",
}
USED_BY = {
    "FITS": ("solving.solve", "solving.exchanges", "solving.block_rules", "judging.judge"),
    "STRANGE": ("solving.solve", "judging.certainty"),
    "SAME": ("doubts.parts",),
    "AKIN": ("structure",),
    "AROUND": ("doubts.layers", "structure"),
    "HALF": ("structure",),
    "SWAP_GAP": ("judging.judge",),
}
NAMES = [f"{module}.{name}" for module, names in CONSTANTS.items() for name in names.split()]

# The rules of doubt that no names and shapes alone show: by the test that does.
ELSEWHERE = {
    "crossed_names": "test_exchanged",
    "rows_in_unknown_order": "test_untold_pairs",
}

Shapes = Mapping[str, list[int]]
# For each filled slot, what feeds it, and how sure.
Decisions = Mapping[str, list[str]]


class Case(NamedTuple):
    file: Shapes
    model: Shapes


class Held(NamedTuple):
    """The cases by name, and what each constant and each rule decides in one of them."""

    cases: dict[str, Case]
    constants: dict[str, dict[str, object]]
    rules: dict[str, dict[str, object]]


def read() -> Held:
    held = json.loads(PATH.read_text(encoding="utf-8"))
    return Held({name: Case(**case) for name, case in held["cases"].items()}, held["constants"], held["rules"])


def decided(case: Case) -> Decisions:
    file, model = (
        {name: TensorSpec(name=name, shape=tuple(shape), dtype=DType.F32) for name, shape in side.items()}
        for side in case
    )
    found = match(file, Models(target_from_specs(model)))
    return {m.target.name: [m.source.name, m.certainty.value] for m in found.matches}


def decided_with(constant: str, factor: float, case: Case) -> Decisions:
    """Return what is decided where a constant is so many times as large."""
    home, _, name = constant.rpartition(".")
    with ExitStack() as stack:
        for at in (home, *USED_BY.get(name, ())):
            module = import_module(f"torchgraft.matching.{at}")
            value = getattr(module, name)
            stack.enter_context(patch.object(module, name, type(value)(value * factor)))
        return decided(case)


def decided_without(rule: str, case: Case) -> Decisions:
    """Return what is decided without a rule of doubt."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(doubts, "RULES", [one for one in doubts.RULES if one.name != rule]))
        stack.enter_context(patch.object(reviewing, "RULES", [one for one in reviewing.RULES if one.name != rule]))
        return decided(case)


def rules() -> list[str]:
    """Return the names of all rules of doubt."""
    return [rule.name for rule in (*doubts.RULES, *reviewing.RULES)]


def of_constant(constant: str, cases: Mapping[str, Case]) -> dict[str, object] | None:
    """Return one decision that is another one where a constant is twice, or half, as large."""
    tried = ((name, factor) for name in cases for factor in (2, 0.5))
    return next(
        (
            found
            for name, factor in tried
            if (found := _first(name, cases, decided_with(constant, factor, cases[name]), factor=factor))
        ),
        None,
    )


def of_rule(rule: str, cases: Mapping[str, Case]) -> dict[str, object] | None:
    """Return one decision that is another one without a rule."""
    return next((found for name in cases if (found := _first(name, cases, decided_without(rule, cases[name])))), None)


def _first(name: str, cases: Mapping[str, Case], other: Decisions, **said: object) -> dict[str, object] | None:
    as_is = decided(cases[name])
    slot = next((slot for slot in {**as_is, **other} if as_is.get(slot) != other.get(slot)), None)
    return slot and {"case": name, **said, "slot": slot, "decided": as_is.get(slot), "otherwise": other.get(slot)}


def main() -> None:
    cases = read().cases
    write(
        cases,
        {constant: of_constant(constant, cases) for constant in NAMES},
        {rule: of_rule(rule, cases) for rule in rules() if rule not in ELSEWHERE},
    )


def write(cases: Mapping[str, Case], constants: Mapping[str, object], rules: Mapping[str, object]) -> None:
    parts = {"cases": {name: case._asdict() for name, case in cases.items()}, "constants": constants, "rules": rules}
    told = [
        f'"{part}": {{\n'
        + ",\n".join(f'"{name}": {json.dumps(one, separators=(",", ":"))}' for name, one in held.items() if one)
        + "\n}"
        for part, held in parts.items()
    ]
    PATH.write_text("{" + ",\n".join(told) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
