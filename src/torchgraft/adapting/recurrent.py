"""Cells of recurrent layers: what is fed to a cell and what it keeps are weighed together, so a cell is one thing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from torchgraft.core.plan import Certainty, Doubt, Step

# What torch calls the tensors of a cell: of nn.LSTMCell and its like, and of each layer and direction of nn.LSTM.
_ROLE = re.compile(r"(weight|bias)_(ih|hh)(?P<cell>(_l\d+)?(_reverse)?)")


def torn_cells(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return the steps, in doubt, of cells of which one matrix fits nowhere and the other one goes over."""
    cells: dict[tuple[str, str], list[Step]] = defaultdict(list)
    for step in steps.values():
        if (role := _ROLE.fullmatch(step.slot.role)) is not None:
            cells[step.slot.owner, role["cell"]].append(step)
    torn: dict[str, Step] = {}
    for cell in cells.values():
        lost = next((step for step in cell if not step.feeds and len(step.slot.spec.shape) > 1), None)
        if lost is not None:
            torn |= {step.slot.name: _doubted(step, lost) for step in cell if step.feeds}
    return torn


def _doubted(step: Step, lost: Step) -> Step:
    text = f"{lost.slot.role} of the same cell does not fit, so that the cell would be half the file's and half new"
    return replace(step, certainty=Certainty.DOUBT, why=step.why.in_doubt(Doubt("torn_cells", text)))
