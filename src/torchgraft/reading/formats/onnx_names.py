"""Names for initialisers of an ONNX graph that have none of their own, from the nodes that use them.

torch's exporter turns matrices and folds norms into convolutions, and calls what it makes so `onnx::MatMul_186`; the node that
uses it still says by its name which module it was in: `/blocks/blocks.0/attn/q/MatMul`. Initialisers that hold the same values
are one, and the others come from it by nodes of the kind Identity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

_UNNAMED = re.compile(r"(?:onnx::\w+?_)?\d+")
_INSIDE = ("/", "::")
_PATH = re.compile(r"\w[\w-]*(?:\.\w[\w-]*){,31}")
# What the inputs of a node are after its data, by what torch calls them; a matrix that is applied from the right is a `kernel`,
# stored [in, out], as elsewhere in files of that order.
_ROLES: Mapping[str, tuple[str, ...]] = {
    "MatMul": ("kernel",), "Gemm": ("kernel", "bias"), "Conv": ("weight", "bias"), "ConvTranspose": ("weight", "bias"),
}  # fmt: skip
KINDS = frozenset({*_ROLES, "Identity"})
TURNS = "transB"


class Use(NamedTuple):
    """A node of a graph: its kind and name, its inputs and its first output; whether it turns its second input."""

    kind: str
    name: str
    inputs: Sequence[str]
    output: str
    turns: bool


def repeated(uses: Iterable[Use], names: Iterable[str]) -> dict[str, str]:
    """Return further names that nodes give to the tensors called `names`, each with the one that it is."""
    found = dict.fromkeys(names, "")
    out: dict[str, str] = {}
    for use in uses:
        first = use.inputs[0] if use.inputs else ""
        if use.kind == "Identity" and first in found and use.output not in found and not _is_inside(use.output):
            found[use.output] = out[use.output] = out.get(first, first)
    return out


def named_by_use(uses: Iterable[Use], names: Collection[str]) -> dict[str, str]:
    """Return a name for each unnamed tensor that only one module uses, in one place."""
    wanted: dict[str, set[str]] = {name: set() for name in names if _UNNAMED.fullmatch(name)}
    for use in uses if wanted else ():
        path, roles = _module(use), _ROLES.get(use.kind, ())
        for role, name in zip(roles, use.inputs[1:], strict=False):
            if name in wanted:
                own = "weight" if use.turns and role == "kernel" else role
                wanted[name].add(f"{path}.{own}" if path else "")
    told = {name: new for name, one in wanted.items() if len(one) == 1 for new in one if new and new not in names}
    often = Counter(told.values())
    return {name: new for name, new in told.items() if often[new] == 1}


def _is_inside(name: str) -> bool:
    """Whether a name is that of a result within the graph."""
    return not name or (any(mark in name for mark in _INSIDE) and _UNNAMED.fullmatch(name) is None)


def _module(use: Use) -> str:
    """Return the path of the module that a node was made in, "" where its name doesn't say it.

    What is in a list is called by its whole path in there after that of the list: `/blocks/blocks.0/q` is `blocks.0.q`.
    """
    if not use.name.startswith("/"):
        return ""
    path: list[str] = []
    for segment in use.name.split("/")[1:-1]:
        if path and segment.startswith(f"{path[-1]}."):
            path.pop()
        path.append(segment)
    joined = ".".join(path)
    return joined if _PATH.fullmatch(joined) else ""
