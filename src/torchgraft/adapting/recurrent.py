"""Cells of recurrent layers: each cell has a matrix for its input and one for its state, whose rows are gates in some order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torchgraft.core.plan import Certainty, Doubt, Step

# What torch calls the tensors of a cell: of nn.LSTMCell and its like, and of each layer and direction of nn.LSTM.
_ROLE = re.compile(r"(weight|bias)_(ih|hh)(?P<cell>(_l\d+)?(_reverse)?)")
# And whatever else speaks of the two matrices of a cell.
_SIDE = re.compile(r"(?<![a-z])(ih|hh)(?![a-z])")


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


def unordered_gates(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return the steps, in doubt, of cells with several gates that only one side calls as torch does.

    nn.LSTM keeps input, forget, cell and output gate one below the other, ONNX input, output, forget and cell; nn.GRU starts
    with the reset gate, ONNX and Keras with the update gate. One with a matrix of its own for each gate has no such order.
    """
    cells: dict[tuple[bool, str], list[Step]] = defaultdict(list)
    for step in steps.values():
        if len(step.feeds) == 1 and step.certainty is not Certainty.DOUBT:
            ours, theirs = _module_of(step.feeds[0].key), _module_of(step.slot.name)
            if (ours is None) != (theirs is None):
                cells[ours is None, theirs or ours or ""].append(step)
    return {step.slot.name: _in_unknown_order(step) for cell in cells.values() if _has_gates(cell) for step in cell}


def _module_of(name: str) -> str | None:
    """Return the layer that a tensor belongs to, if its name says by `ih` or `hh` to which matrix of a cell; None for others."""
    found = _SIDE.search(name)
    return name[: name.rfind(".", 0, found.start()) + 1] if found else None


def _has_gates(cell: Iterable[Step]) -> bool:
    """Return whether a matrix of a cell that reads what the cell keeps has more rows than that, or more columns."""
    shapes = [
        step.slot.spec.shape
        for step in cell
        if any("hh" in name for name in (step.slot.role, _role(step.feeds[0].key)))
    ]
    return any(len(shape) == 2 and shape[0] != shape[1] for shape in shapes)


def _role(key: str) -> str:
    return key.rpartition(".")[2]


def _in_unknown_order(step: Step) -> Step:
    text = (
        "its rows are the gates of a cell, which libraries keep in several orders, and only one of the names is torch's"
    )
    return replace(step, certainty=Certainty.DOUBT, why=step.why.in_doubt(Doubt("unordered_gates", text)))


def _doubted(step: Step, lost: Step) -> Step:
    text = f"{lost.slot.role} of the same cell does not fit, so that the cell would be half the file's and half new"
    return replace(step, certainty=Certainty.DOUBT, why=step.why.in_doubt(Doubt("torn_cells", text)))
