"""How last segments of names are read by what stands beside them.

Each asks it of modules `by_content`: modules that hold parts of the same names are read alike, and asked for once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from torchgraft.core.names import words
from torchgraft.core.specs import Shape
from torchgraft.matching.names.attentions import MLP_NORM, attends
from torchgraft.matching.names.lists import by_content, place_of, stem
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.dialect import PHRASES

# Modules by the last segments of what they hold, as `by_content` tells.
Modules = Mapping[tuple[str, ...], Sequence[str]]

FIRST_NORM, SECOND_NORM, LAST_NORM = ("norm", "@1"), ("mlp", "norm", "@2"), ("final", "norm")
# What the members of a list are that an attention keeps its projections in, as in The Annotated Transformer and the BERT
# that follows it, by the length of the list.
PROJECTIONS = {"linears": ("q", "k", "v", "o"), "linear_layers": ("q", "k", "v")}
# What an attention's way back is called beside its query, key and value, in Flax and in OpenAI's Whisper.
BACK = frozenset({"out", "output"})
# Names of the layers of a gated network: gate, down and up.
GATED = (("w", "1"), ("w", "2"), ("w", "3"))
# What they are where the way back down has a name of its own: as in Qwen's own code of its first version.
BESIDE_DOWN = {"c_proj": {"1": "up", "2": "gate"}}
GATED_PARTS = ("gate", "up", "down")
# Rows of which the first two layers are gate and up where both have one shape: one after the other they couldn't run. So in
# lit-GPT (`fc_1`, `fc_2`, `proj`), LLMs from scratch (`fc1`, `fc2`, `fc3`), EVA and xFormers (`w1`, `w2`, `w3`).
PARALLEL = (("fc", "1"), ("fc", "2")), (("w", "1"), ("w", "2"))
# Words of norms that come behind a part of a block, by the part; norms of queries and keys are none of the block.
AFTER, OF_HEADS = frozenset({"post", "after"}), frozenset({"q", "k"})
ATTENTION = frozenset({"attn", "attention"})
FEED_FORWARD = frozenset({"mlp", "ffn", "ffw", "ff", "feed", "feedforward", "moe"})
ALONE_BEHIND = {"attn": "norm1", "mlp": "norm2"}


def read_beside(paths: Modules, others: Iterable[str]) -> dict[str, str]:
    """Return how paths are read where what stands beside them makes that another; `others` are those of the other side."""
    counted = {path: counted_from_one(path) for path in _counted_from_zero(paths, others)}
    after = _behind_attentions(paths) | _behind_both(paths)
    return (
        counted
        | _before_the_first(paths)
        | _without_third(paths)
        | _beside_queries(paths)
        | _by_position(paths)
        | after
    )


def _counted_from_zero(paths: Modules, others: Iterable[str]) -> set[str]:
    """Return the paths whose last segment ends in a number of a row that is counted from zero: `bn0`, `bn1`, `bn2`.

    The first one may have no number: Keras calls layers `dense`, `dense_1`, `dense_2` when no one names them. Not those whose numbers have a meaning as they are: `wi_0` is a gate; nor where few blocks begin at zero, or the `others`
    have just the rest of the row: there it is something more.
    """
    if not any(_ends_in_zero(last) or f"{last}_1" in inside for inside in paths for last in inside):
        return set()
    whole = [
        (before, row)
        for (_, before), row in _rows_of_numbers(paths).items()
        if len(row) > 1 and 0 in row and 2 * len(row[0]) > len(row.get(1, ()))
    ]
    if not whole:
        return set()
    theirs = _rows_of_numbers(by_content(dict.fromkeys(others)))
    rest = {(before, *sorted(row)) for (_, before), row in theirs.items()}
    left = [row for before, row in whole if (before, *sorted(row)[1:]) not in rest]
    return {path for row in left for paths in row.values() for path in paths}


def _ends_in_zero(last: str) -> bool:
    """Return whether a segment is a word with the number zero behind it."""
    before = stem(last) or ""
    return before != "" and last[len(before) :].strip("0") == ""


def _rows_of_numbers(paths: Modules) -> dict[tuple[str, str], dict[int, list[str]]]:
    """Return the paths that end in a number by the place and the stem of their row, and by their number."""
    rows: dict[tuple[str, str], dict[int, list[str]]] = {}
    for inside, parents in paths.items():
        for last in inside:
            before, number = _counted(last, inside)
            if before and (*words(before), "0") not in PHRASES:
                for parent in parents:
                    row = rows.setdefault((place_of(parent), before), {})
                    row.setdefault(number, []).append(_path(parent, last))
    return rows


def _counted(last: str, inside: Collection[str]) -> tuple[str, int]:
    """Return what stands before the number of a segment, and the number: 0 of `conv2d` beside `conv2d_1`; ("", 0) without one."""
    if f"{last}_1" in inside and f"{last}_0" not in inside:
        return f"{last}_", 0
    before = stem(last)
    return (before, int(last[len(before) :])) if before and last[-1].isdecimal() else ("", 0)


def counted_from_one(path: str) -> str:
    """Return a path with the number at its end one higher, as for a row counted from one; where it has none, it is the first."""
    before, _, number = path.rpartition("_")
    bare = before + "_" if before and number.isdecimal() else path.rstrip("0123456789")
    return f"{bare}{int(path[len(bare) :]) + 1}" if bare != path else f"{path}_1"


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
                elif words(last)[0] == "pre":
                    ahead.setdefault(last, []).extend(parents)
    return {
        _path(parent, last): _path(parent, "norm0")
        for last, parents in ahead.items()
        for parent in parents
        if place_of(parent) in first
    }


def _behind_attentions(paths: Modules) -> dict[str, str]:
    """Return how `final_layer_norm` is read beside an attention and `fc1`, as in fairseq: as the norm of the layers behind that.

    Where these layers lie in modules with norms of their own, as in a Conformer, it is that of the whole block.
    """
    names = {last for inside in paths for last in inside if canonical(last) == LAST_NORM and _has_layers(inside)}
    if not names:
        return {}
    around = {tuple(parent.rpartition(".")[::2]) for parents in paths.values() for parent in parents}
    blocks = {block for block, part in around if attends(part)}
    return {
        _path(parent, last): _path(parent, MLP_NORM)
        for inside, parents in paths.items()
        for last in names.intersection(inside if _has_layers(inside) else ())
        for parent in parents
        if parent in blocks
    }


def _behind_both(paths: Modules) -> dict[str, str]:
    """Return how `post_attention_norm` is read beside `post_feedforward_norm`, for each of the two.

    Without a norm before the attention, as in OLMo 2, they are the first and the second norm of the block; with one, as in
    Gemma 2, each is one more behind its part, and that before the feed-forward part is not the second any more. Alone, `post_attention_norm` is the one before the feed-forward part, as in Llama.
    """
    found: dict[str, str] = {}
    for inside, parents in paths.items():
        norms = [last for last in inside if "norm" in (said := canonical(last)) and not OF_HEADS.intersection(said)]
        behind = {last: part for last in norms if (part := _part_before(last))}
        if sorted(behind.values()) == ["attn", "mlp"]:
            alone = len(norms) == len(behind)
            meant = {last: ALONE_BEHIND[part] if alone else f"{part}_post_norm" for last, part in behind.items()}
            meant |= {last: "mlp_pre_norm" for last in norms if canonical(last) == SECOND_NORM and last not in behind}
            found |= {_path(parent, last): _path(parent, said) for last, said in meant.items() for parent in parents}
    return found


def _part_before(last: str) -> str:
    """Return the part of a block that a norm comes after by its name: "attn", "mlp" or ""."""
    spelled = words(last)
    if not AFTER.intersection(spelled):
        return ""
    return "attn" if ATTENTION.intersection(spelled) else "mlp" if FEED_FORWARD.intersection(spelled) else ""


def _has_layers(inside: Iterable[str]) -> bool:
    return any(canonical(last)[:2] == ("mlp", "fc") for last in inside)


def _by_position(paths: Modules) -> dict[str, str]:
    """Return how members of lists are read that are told by their number alone: `linears.1` is the key."""
    found: dict[str, str] = {}
    for inside, rows in paths.items():
        members = {int(last): last for last in inside if last.isdecimal()}
        for row in rows if members else ():
            parent, _, name = row.rpartition(".")
            said = PROJECTIONS.get(name, ())
            if said and sorted(members) == list(range(len(said))):
                found |= {_path(row, members[n]): _path(parent, meant) for n, meant in enumerate(said)}
    return found


def _beside_queries(paths: Modules) -> dict[str, str]:
    """Return how `out` is read beside query, key and value of one module: as the projection of the attention's output."""
    return {
        _path(parent, back): _path(parent, "o")
        for inside, parents in paths.items()
        for back in BACK.intersection(inside)
        if {("q",), ("k",), ("v",)} <= {canonical(last) for last in inside}
        for parent in parents
    }


def _without_third(paths: Modules) -> dict[str, str]:
    """Return how `w1` and `w2` are read where no `w3` is beside them: as the two layers of a plain network.

    With a third, there or at the same place of another member of a list, they are gate and down of a gated one, as in Llama.
    """
    found: list[tuple[Mapping[str, str], Sequence[str]]] = []
    gated: set[str] = set()
    for inside, parents in paths.items():
        row = {third: last for last in inside if last[:1] in "wW" and (third := words(last)) in GATED}
        if GATED[2] in row:
            gated.update(map(place_of, parents))
        elif row:
            down = next((name for name in BESIDE_DOWN if name in inside), "")
            known = BESIDE_DOWN[down] if down and len(row) > 1 else {}
            found.append(({last: known.get(n, f"fc{n}") for (_, n), last in row.items()}, parents))
    return {
        _path(parent, last): _path(parent, meant)
        for said, parents in found
        for parent in parents
        if not (gated and place_of(parent) in gated)
        for last, meant in said.items()
    }


def read_gated(paths: Modules, said: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return how the layers of gated networks are read: of two of one shape as gate and up, and of the one turned round as down.

    `shapes` are those of matrices by their paths; `said` is how paths were read before.
    """
    found: dict[str, str] = {}
    for inside, parents in paths.items():
        meant = _gates(inside, said, parents[0])
        for parent in parents if meant else ():
            layers = {last: shape for last in inside if (shape := shapes.get(_path(parent, last))) is not None}
            told = next((names for pair in meant if (names := _with_down(pair, layers))), ())
            found |= {_path(parent, last): _path(parent, name) for last, name in zip(told, GATED_PARTS, strict=False)}
    return found


def _with_down(pair: tuple[str, str], layers: Mapping[str, Shape]) -> tuple[str, ...]:
    """Return two layers with the only other one, where that has their one shape turned round; () elsewhere."""
    shape, others = layers.get(pair[0], ()), layers.keys() - {*pair}
    fits = layers.get(pair[1]) == shape and [layers[last] for last in others] == [shape[::-1]] != [shape]
    return (*pair, *others) if fits else ()


def _gates(inside: Sequence[str], said: Mapping[str, str], parent: str) -> list[tuple[str, str]]:
    """Return what a module may have as gate and up: by name, and by number."""
    read: dict[tuple[str, ...], str] = {}
    for last in inside:
        read[canonical(said.get(_path(parent, last), last).rpartition(".")[2])] = last
        read.setdefault(words(last), last)
    return [(read[gate], read[up]) for gate, up in ((("gate",), ("up",)), *PARALLEL) if gate in read and up in read]


def _path(parent: str, last: str) -> str:
    return f"{parent}.{last}" if parent else last
