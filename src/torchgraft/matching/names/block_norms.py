"""How the norms of a block are read by what stands beside them: as those of its attention, or of the layers behind that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torchgraft.core.names import words
from torchgraft.matching.names.attentions import MLP_NORM, attends
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.dialect import AFTER, BEFORE

# Modules by the last segments of what they hold, as `by_content` tells.
Modules = Mapping[tuple[str, ...], Sequence[str]]

NORM = ("norm",)
FIRST_NORM, FINAL_NORM = ("norm", "@1"), ("final", "norm")
SECOND_NORMS = ("norm", "@2"), ("mlp", "norm", "@2")
# Norms of queries and keys are none of the block.
OF_HEADS = frozenset({"q", "k"})
# Words of the parts of a block that a norm may come behind.
ATTENTION = frozenset({"attn", "attns", "attention", "1"})
FEED_FORWARD = frozenset({"mlp", "mlps", "ffn", "ffw", "ff", "feed", "feedforward", "moe", "2"})
ALONE_BEHIND = {"attn": "norm1", "mlp": "norm2"}
# What a module attends with: values may be those of a gate as well.
QUERIES = frozenset({"q", "qkv"})
ATTN_NORM, INNER_NORM = "attn_norm", "inner_norm"


def read_norms(paths: Modules) -> dict[str, str]:
    """Return how norms are read that what stands beside them, or around them, makes another."""
    return (
        _before_the_first(paths)
        | _inside_attentions(paths)
        | _of_members(paths)
        | _behind_attentions(paths)
        | _behind_both(paths)
    )


def path_in(parent: str, last: str) -> str:
    """Return the path of what a module holds."""
    return f"{parent}.{last}" if parent else last


def _before_the_first(paths: Modules) -> dict[str, str]:
    """Return how `pre_norm` is read beside a norm that is numbered as the first: as one before it, number 0.

    RWKV calls it `ln0`, and transformers `pre_ln`, in the only block that has one; alone, `pre_norm` is the first.
    """
    ahead: dict[str, list[str]] = {}
    first: set[str] = set()
    for inside, parents in paths.items():
        for last in inside:
            if canonical(last) == FIRST_NORM:
                if last[-1].isdecimal():
                    first.update(map(place_of, parents))
                elif words(last)[0] in BEFORE:
                    ahead.setdefault(last, []).extend(parents)
    return {
        path_in(parent, last): path_in(parent, "norm0")
        for last, parents in ahead.items()
        for parent in parents
        if place_of(parent) in first
    }


def _inside_attentions(paths: Modules) -> dict[str, str]:
    """Return how the norm inside of an attention is read whose block has a first norm besides: as one of the attention's own.

    So of shortened keys and values in SegFormer and PVT; where the block has no other, it is the one before the attention.
    """
    firsts = {
        parent
        for inside, parents in paths.items()
        if any(canonical(last) == FIRST_NORM for last in inside)
        for parent in parents
    }
    return {
        path_in(parent, last): path_in(parent, INNER_NORM)
        for inside, parents in paths.items()
        if firsts
        for last in inside
        if canonical(last) == NORM
        for parent in parents
        if not firsts.isdisjoint(_blocks_of(parent))
    }


def _blocks_of(module: str) -> Iterator[str]:
    """Yield the modules around attentions that a module is, or lies in."""
    parts = module.split(".")
    return (".".join(parts[:at]) for at, part in enumerate(parts) if at and attends(part))


def _behind_attentions(paths: Modules) -> dict[str, str]:
    """Return how `final_layer_norm` is read beside an attention and the layers behind that, as in fairseq: as the norm of these.

    They are `fc1`, or lie in one module. Where there are several such modules, or it has a norm of its own, as in a Conformer,
    it is that of the whole block.
    """
    names = {last for inside in paths for last in inside if canonical(last) == FINAL_NORM}
    if not names:
        return {}
    parts: dict[str, dict[str, tuple[str, ...]]] = {}
    for inside, parents in paths.items():
        for parent in parents:
            block, _, part = parent.rpartition(".")
            parts.setdefault(block, {})[part] = inside
    return {
        path_in(parent, last): path_in(parent, MLP_NORM)
        for inside, parents in paths.items()
        for last in names.intersection(inside)
        for parent in parents
        if _stands_behind_layers(inside, parts.get(parent, {}))
    }


def _stands_behind_layers(inside: Sequence[str], parts: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the last norm of a block is that of its layers behind the attentions, by what it holds and its modules."""
    attentions = sum(map(attends, parts))
    if not attentions or _has_layers(inside):
        return attentions > 0
    layers = [part for part in parts if "mlp" in canonical(part)[:1]]
    norms = [last for last in inside if "norm" in canonical(last)]
    alone = (
        len(layers) == 1
        and canonical(layers[0]) == ("mlp",)
        and not any("norm" in canonical(last) for last in parts[layers[0]])
    )
    return alone and len(norms) == attentions + 1


def _behind_both(paths: Modules) -> dict[str, str]:
    """Return how `post_attention_norm` is read beside `post_feedforward_norm`, for each of the two.

    Without a norm before the attention, as in OLMo 2, they are the first and the second norm of the block; with one, as in
    Gemma 2, each is one more behind its part, and that before the feed-forward part is not the second any more. Alone,
    `post_attention_norm` is the one before the feed-forward part, as in Llama.
    """
    found: dict[str, str] = {}
    for inside, parents in paths.items():
        norms = [last for last in inside if "norm" in (said := canonical(last)) and not OF_HEADS.intersection(said)]
        behind = {last: part for last in norms if (part := _part_before(last))}
        if sorted(behind.values()) == ["attn", "mlp"]:
            alone = len(norms) == len(behind)
            meant = {last: ALONE_BEHIND[part] if alone else f"{part}_post_norm" for last, part in behind.items()}
            meant |= {
                last: "mlp_front_norm" for last in norms if canonical(last) in SECOND_NORMS and last not in behind
            }
            found |= {
                path_in(parent, last): path_in(parent, said) for last, said in meant.items() for parent in parents
            }
    return found


def _part_before(last: str) -> str:
    """Return the part of a block that a norm comes after by its name: "attn", "mlp" or ""."""
    spelled = words(last)
    if not AFTER.intersection(spelled):
        return ""
    return "attn" if ATTENTION.intersection(spelled) else "mlp" if FEED_FORWARD.intersection(spelled) else ""


def _has_layers(inside: Iterable[str]) -> bool:
    return any(canonical(last)[:2] == ("mlp", "fc") for last in inside)


def _of_members(paths: Modules) -> dict[str, str]:
    """Return how the only norm is read in each of two members of a block: of the one that attends, and of the other.

    So in code that keeps a block as a list of a part that attends and one that doesn't, `0.norm` and `1.norm`.
    """
    norms = [
        path_in(parent, last)
        for inside, parents in paths.items()
        for last in inside
        if canonical(last) == NORM
        for parent in parents
    ]
    blocks: dict[str, dict[str, list[str]]] = {}
    for path in norms:
        for block, member in _members_around(path):
            blocks.setdefault(block, {}).setdefault(member, []).append(path)
    pairs = {
        member: block
        for block, held in blocks.items()
        if len(held) == 2 and all(len(own) == 1 for own in held.values())
        for member in held
    }
    attending = set(_attending(paths, pairs)) if pairs else set()
    return {
        blocks[block][member][0]: path_in(block, ATTN_NORM if member in attending else MLP_NORM)
        for member, block in pairs.items()
        if len(attending.intersection(blocks[block])) == 1
    }


def _members_around(path: str) -> Iterator[tuple[str, str]]:
    """Yield the members of a list that is a block itself, a member of another list, around a path: the block and the member."""
    parts = path.split(".")
    for at in range(2, len(parts)):
        if parts[at - 1].isdecimal() and parts[at - 2].isdecimal():
            yield ".".join(parts[: at - 1]), ".".join(parts[:at])


def _attending(paths: Modules, members: Iterable[str]) -> Iterator[str]:
    """Yield those of some modules that hold queries."""
    inside = {
        parent
        for last, parents in paths.items()
        if any(QUERIES.intersection(canonical(name)) for name in last)
        for parent in parents
    }
    starts = {*members}
    for module in inside:
        parts = module.split(".")
        yield from starts.intersection(".".join(parts[:at]) for at in range(1, len(parts) + 1))
