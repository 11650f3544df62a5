"""Rows by meaning: class rows by name, tables that may grow at their end. Rows are never cut by position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.adapting.fit import Fit
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Rows
from torchgraft.ops import SelectRows

if TYPE_CHECKING:
    from torchgraft.adapting.options import ClassRows, Options
    from torchgraft.core.match import Leaf


def row_fit(source: Leaf, target: Leaf, options: Options) -> Fit | None:
    """Return how the rows of a table move, or None when the caller has said nothing about them."""
    if options.classes is not None:
        for module, per in options.classes.modules.items():
            if any(name.startswith(module + ".") for name in (target.name, *target.also)) or target.name == module:
                return _by_class(source, target, options.classes, per)
    grows = any(target.keys[0] == table or target.keys[0].startswith(table + ".") for table in options.grow_rows)
    grows = grows or any(alias in options.grow_rows for alias in target.also)
    a, b = source.shape, target.shape
    if grows and len(a) == len(b) and a and a[0] < b[0] and a[1:] == b[1:]:
        text = f"{a[0]} rows copied, {b[0] - a[0]} new ones at the end stay fresh"
        return Fit((), text, rows=Rows(0, tuple(range(a[0]))), rule="grown rows")
    return None


def _by_class(source: Leaf, target: Leaf, classes: ClassRows, per: int) -> Fit:
    sizes = (len(classes.source) * per, len(classes.target) * per)
    if (source.shape[0], target.shape[0]) != sizes or source.shape[1:] != target.shape[1:]:
        raise UsageError(
            f"class names: {target.name} has {source.shape[0]} rows in the file and {target.shape[0]} in the model, but "
            f"{len(classes.source)} and {len(classes.target)} names at {per} row(s) each give {sizes[0]} and {sizes[1]}"
        )
    old = {name: at for at, name in enumerate(classes.source)}
    shared = [(old[name], at) for at, name in enumerate(classes.target) if name in old]
    picks = tuple(i * per + k for i, _ in shared for k in range(per))
    places = tuple(j * per + k for _, j in shared for k in range(per))
    new = [name for name in classes.target if name not in old]
    text = f"rows follow {len(shared)} shared class names" + (f"; fresh: {', '.join(new[:6])}" if new else "")
    rows = None if len(places) == target.shape[0] else Rows(0, places)
    if not shared:
        return Fit(None, "no class name in common")
    order = tuple(picks[places.index(at)] for at in range(target.shape[0])) if rows is None else picks
    return Fit((SelectRows(0, order),), text, rows=rows, rule="class names")
