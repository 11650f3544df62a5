"""Blocks with several attentions: which one is the cross-attention, and whose norm a numbered norm is.

Numbers alone don't say it: in a block that attends to its input before it attends to itself, `norm1` is not the norm of
self-attention (DETR and Deformable DETR differ in this).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.core.names import words
from torchgraft.matching.names.words import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CROSS = "cross_attn"


def read_attentions(paths: Iterable[str]) -> dict[str, str]:
    """Return how the paths are read of what belongs to one of several attentions of a block, by their order.

    Beside a self-attention, the other one is the cross-attention, whatever its name (`multihead_attn` in
    torch.nn.TransformerDecoderLayer). Where a numbered norm stands right behind each of them, it is that one's norm.
    """
    paths = list(paths)
    blocks = with_attentions(paths)
    children: dict[str, dict[str, list[str]]] = {block: {} for block in blocks}
    for path in paths if blocks else ():
        for block in _around(path):
            if block in blocks:
                child = path[len(block) + 1 :].partition(".")[0]
                children[block].setdefault(child, []).append(path)
    found: dict[str, str] = {}
    for block, held in children.items():
        said = _attentions([child for child, inside in held.items() if inside != [f"{block}.{child}"]])
        if said:
            found.update(_read(block, held, said))
    return found


def with_attentions(paths: Iterable[str]) -> set[str]:
    """Return the blocks with several parts that attend; such a part holds layers, and is no layer or tensor itself."""
    attends: dict[str, bool] = {}
    found: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split(".")
        for at, part in enumerate(parts[1:-1], 1):
            if part not in attends:
                attends[part] = _attends(part)
            if attends[part]:
                found.setdefault(".".join(parts[:at]), set()).add(part)
    return {block for block, held in found.items() if len(held) > 1}


def _around(path: str) -> Iterator[str]:
    """Yield the modules around a path, innermost first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _attends(part: str) -> bool:
    meant = canonical(part)
    return bool({"attn", "cross"} & set(meant)) and "norm" not in meant


def _attentions(children: Sequence[str]) -> dict[str, str]:
    """Return the attentions among the parts of a block with what they are called; none where it has fewer than two."""
    found = [child for child in children if _attends(child)]
    if len(found) < 2:
        return {}
    own = [child for child in found if "self" in words(child)]
    if len(found) == 2 and len(own) == 1:
        return {child: child if child in own else CROSS for child in found}
    return {child: child for child in found}


def _read(block: str, held: Mapping[str, Sequence[str]], said: Mapping[str, str]) -> dict[str, str]:
    inside = {
        path: f"{block}.{name}{path[len(block) + 1 + len(child) :]}"
        for child, name in said.items()
        for path in held[child]
        if name != child
    }
    order = list(held)
    behind = {child: order[order.index(child) + 1] for child in said if child != order[-1]}
    if len(behind) == len(said) and all(is_numbered_norm(norm) for norm in behind.values()):
        inside |= {f"{block}.{norm}": f"{block}.{said[child]}_norm" for child, norm in behind.items()}
    return inside


def is_numbered_norm(path: str) -> bool:
    """Return whether a path ends in a norm that has a number and no other name: `norm1`, `ln_2`."""
    meant = canonical(path.rpartition(".")[2])
    return len(meant) == 2 and meant[0] == "norm" and meant[1].startswith("@")
