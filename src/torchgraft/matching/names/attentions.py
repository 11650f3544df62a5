"""Blocks with several attentions: which one is the cross-attention, and whose norm a numbered norm is.

Numbers alone don't say it: in a block that attends to its input before it attends to itself, `norm1` is not the norm of
self-attention (DETR and Deformable DETR differ in this).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

from torchgraft.core.names import above, natural_key, words
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.names.words import canonical

SELF, CROSS, MLP_NORM = "self_attn", "cross_attn", "ffn_norm"


def read_attentions(paths: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """Return how the paths are read of what belongs to one of several attentions of a block, by their order.

    Beside a self-attention, the other one is the cross-attention, whatever its name (`multihead_attn` in
    torch.nn.TransformerDecoderLayer, `attn2` beside `attn1` in latent diffusion). Where a numbered norm stands right behind
    each of them, or right before, it is that one's norm; so it is by its number where all stand behind them, as there. A
    last one is that of the layers behind the attentions. Where order doesn't tell it in another block of the list, or in one
    with as many numbered norms among the `others`, the paths of the other side, numbers say more than order here.
    """
    blocks = [(block, held, said, _own_norms(held, said)) for block, held, said in _blocks(paths)]
    untold = {_count_of_numbered(held) for _, held, said in _blocks(others) if not _own_norms(held, said)}
    here = {place_of(block) for block, _, _, own in blocks if not own}
    found: dict[str, str] = {}
    for block, held, said, told in blocks:
        own = {} if place_of(block) in here or _count_of_numbered(held) in untold else told
        found.update(_read(block, held, said, own))
    return found


def _blocks(paths: Iterable[str]) -> Iterator[tuple[str, Mapping[str, Sequence[str]], dict[str, str]]]:
    """Yield the blocks with several attentions, with the paths inside by the child they lie in, and what attentions are called."""
    paths = list(paths)
    for block, held in _children(paths, with_attentions({path.rpartition(".")[0] for path in paths})).items():
        yield block, held, _attentions([child for child, inside in held.items() if inside != [f"{block}.{child}"]])


def _count_of_numbered(held: Iterable[str]) -> int:
    """Return how many norms of a block have a number."""
    return sum(map(is_numbered_norm, held))


def _children(paths: Iterable[str], blocks: Container[str]) -> dict[str, dict[str, list[str]]]:
    """Return for each of the blocks the paths inside of it, by the child that they lie in."""
    children: dict[str, dict[str, list[str]]] = {}
    for path in paths if blocks else ():
        for block in above(path):
            if block in blocks:
                child = path[len(block) + 1 :].partition(".")[0]
                children.setdefault(block, {}).setdefault(child, []).append(path)
    return children


def with_attentions(modules: Iterable[str]) -> set[str]:
    """Return the blocks with several parts that attend, around modules that hold layers: a part is no layer itself."""
    known_parts: dict[str, bool] = {}
    found: dict[str, set[str]] = {}
    known = {""}
    for module in modules:
        path = module
        while path not in known:
            known.add(path)
            block, _, part = path.rpartition(".")
            if part not in known_parts:
                known_parts[part] = attends(part)
            if known_parts[part]:
                found.setdefault(block, set()).add(part)
            path = block
    return {block for block, held in found.items() if block and len(held) > 1}


def disordered(blocks: Container[str], paths: Iterable[str]) -> set[str]:
    """Return those of the `blocks` with several attentions in which order doesn't say whose norms the numbered norms are.

    It says so where each attention has one right behind it, and where self-attention comes first and the numbers rise, as
    in torch.nn.TransformerDecoderLayer.
    """
    found: set[str] = set()
    for block, held in _children(paths, blocks).items():
        said = _attentions([child for child, inside in held.items() if inside != [f"{block}.{child}"]])
        norms = [child for child in held if is_numbered_norm(child)]
        told = _own_norms(held, said) or _are_told_by_order(said, norms)
        if norms and not told:
            found.add(block)
    return found


def _starts_with_self(attentions: Iterable[str]) -> bool:
    first = next(iter(attentions), "")
    return "self" in words(first) or canonical(first) == ("attn",)


def attends(part: str) -> bool:
    """Return whether a part of a block is an attention by its name, and not the norm of one."""
    meant = canonical(part)
    return bool({"attn", "cross"} & set(meant)) and "norm" not in meant


def _is_first(child: str) -> bool:
    """Return whether an attention is numbered as the first: that to itself, as `attn1` beside `attn2` in latent diffusion."""
    return canonical(child) == ("attn", "@1")


def _attentions(children: Sequence[str]) -> dict[str, str]:
    """Return the attentions among the parts of a block, two at least, with what they are called."""
    found = [child for child in children if attends(child)]
    own = [child for child in found if "self" in words(child)] or list(filter(_is_first, found))
    if len(found) == 2 and len(own) == 1:
        return {child: SELF if _is_first(child) else child if child in own else CROSS for child in found}
    return {child: child for child in found}


def _read(
    block: str, held: Mapping[str, Sequence[str]], said: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    inside = {
        path: f"{block}.{name}{path[len(block) + 1 + len(child) :]}"
        for child, name in said.items()
        for path in held[child]
        if name != child
    }
    rest = [child for child in held if is_numbered_norm(child) and child not in own.values()] if own else []
    others = {f"{block}.{norm}": f"{block}.{MLP_NORM}" for norm in rest if len(rest) == 1}
    return inside | others | {f"{block}.{norm}": f"{block}.{said[child]}_norm" for child, norm in own.items()}


def _own_norms(held: Iterable[str], attentions: Collection[str]) -> dict[str, str]:
    """Return the numbered norm right behind each attention of a block, or right before where one comes first of all.

    Or else those that stand behind all, with one more for the layers after the attentions, where order says whose they are.
    """
    order = ["", *held, ""]
    for side in (-1, 1):
        beside = {child: order[order.index(child) + side] for child in attentions}
        if all(map(is_numbered_norm, beside.values())):
            return beside
    norms = [child for child in held if is_numbered_norm(child)]
    behind = all(order.index(norm) > order.index(child) for norm in norms for child in attentions)
    told = behind and len(norms) == len(attentions) + 1 and _are_told_by_order(attentions, norms)
    return dict(zip(attentions, norms, strict=False)) if told else {}


def _are_told_by_order(attentions: Iterable[str], norms: Sequence[str]) -> bool:
    """Return whether self-attention comes first and the numbers of the norms rise."""
    numbers = [canonical(norm)[1] for norm in norms]
    return _starts_with_self(attentions) and numbers == sorted(numbers, key=natural_key)


def is_numbered_norm(path: str) -> bool:
    """Return whether a path ends in a norm that has a number and no other name: `norm1`, `ln_2`."""
    meant = canonical(path.rpartition(".")[2])
    return len(meant) == 2 and meant[0] == "norm" and meant[1].startswith("@")
