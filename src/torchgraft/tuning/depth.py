"""How deep in a model a parameter stands, for learning rates that fall off towards the input.

The depth comes from names and registration order. Parameters belong to *units*: a name's path up to its first number
(`encoder.layer.3` for `encoder.layer.3.output.dense.weight`). Units count upwards in the order in which the model
registers them; everything without a number before the first unit stands at depth 0 together (embeddings, stem), and
everything without a number after a unit (final norm, head) one above it, together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def depths(names: Sequence[str]) -> tuple[int, ...]:
    """Return the depth of each name; `names` are in registration order. The greatest depth is the last unit's."""
    units: dict[str, int] = {}
    out: list[int] = []
    top = 0
    loose = True
    for name in names:
        unit = numbered(name)
        if unit is None:
            if not loose:
                top, loose = top + 1, True
            out.append(top)
            continue
        if unit not in units:
            top, loose = top + 1, False
            units[unit] = top
        out.append(units[unit])
    return tuple(out)


def numbered(name: str) -> str | None:
    """Return the path of `name` up to its first segment that is a number, None if there is none."""
    parts = name.split(".")
    at = next((n for n, part in enumerate(parts) if part.isdecimal()), None)
    return None if at is None else ".".join(parts[: at + 1])
