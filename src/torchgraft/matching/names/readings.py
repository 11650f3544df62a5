"""How last segments of names are read by what stands beside them.

Each asks it of modules `by_content`: modules that hold parts of the same names are read alike, and asked for once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

from torchgraft.core.names import words
from torchgraft.core.specs import Shape
from torchgraft.matching.names.attentions import attends
from torchgraft.matching.names.block_norms import Modules, path_in, read_norms
from torchgraft.matching.names.lists import by_content, place_of, stem
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.dialect import BACK, PHRASES

# What the members of a list are that an attention keeps its projections in, as in The Annotated Transformer and the BERT
# that follows it, by the length of the list.
PROJECTIONS = {"linears": ("q", "k", "v", "o"), "linear_layers": ("q", "k", "v")}
FROM_INPUT = frozenset({"q", "k", "v"}), frozenset({"qkv"})
# Names of the layers of a gated network: gate, down and up.
GATED = (("w", "1"), ("w", "2"), ("w", "3"))
# What they are where the way back down has a name of its own: as in Qwen's own code of its first version.
BESIDE_DOWN = {"c_proj": {"1": "up", "2": "gate"}}
GATE = "gate"
GATED_PARTS = (GATE, "up", "down")
# Rows of which the first two layers are gate and up where both have one shape: one after the other they couldn't run. So in
# lit-GPT (`fc_1`, `fc_2`, `proj`), LLMs from scratch (`fc1`, `fc2`, `fc3`), EVA and xFormers (`w1`, `w2`, `w3`).
PARALLEL = (("fc", "1"), ("fc", "2")), (("w", "1"), ("w", "2"))
# Names of the two layers of a network without a gate, in Falcon, MPT and T5, and how they are read.
PLAIN = (("up", "proj"), ("down", "proj")), (("up",), ("down",)), (("wi",), ("wo",))
PLAIN_PARTS, FIRST_LAYER = ("fc1", "fc2"), ("mlp", "fc", "@1")
# Last words of tables: an embedding of nothing that is said, and of tokens.
PLAIN_TABLE, TOKENS = ("embed",), ("tok",)
# Up to so many layers in a row, norms included, may be such a network.
FEW_LAYERS = 4


def read_beside(paths: Modules, others: Iterable[str]) -> dict[str, str]:
    """Return how paths are read where what stands beside them makes that another; `others` are those of the other side."""
    counted = {path: counted_from_one(path) for path in _counted_from_zero(paths, others)}
    return counted | _without_third(paths) | _beside_queries(paths) | _by_position(paths) | read_norms(paths)


def _counted_from_zero(paths: Modules, others: Iterable[str]) -> set[str]:
    """Return the paths whose last segment ends in a number of a row that is counted from zero: `bn0`, `bn1`, `bn2`.

    The first one may have no number: Keras calls layers `dense`, `dense_1`, `dense_2` when no one names them. Not those
    whose numbers have a meaning as they are: `wi_0` is a gate; nor where few blocks begin at zero, or the `others` have
    just the rest of the row: there it is something more, unless they have the whole row from one on.
    """
    if not any(_ends_in_zero(last) or f"{last}_1" in inside for inside in map(frozenset, paths) for last in inside):
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
    left = [
        row
        for before, row in whole
        if (before, *sorted(row)[1:]) not in rest or (before, *(number + 1 for number in sorted(row))) in rest
    ]
    return {path for row in left for paths in row.values() for path in paths}


def _ends_in_zero(last: str) -> bool:
    """Return whether a segment is a word with the number zero behind it."""
    before = stem(last) or ""
    return before != "" and last[len(before) :].strip("0") == ""


def _rows_of_numbers(paths: Modules) -> dict[tuple[str, str], dict[int, list[str]]]:
    """Return the paths that end in a number by the place and the stem of their row, and by their number."""
    rows: dict[tuple[str, str], dict[int, list[str]]] = {}
    for inside, parents in paths.items():
        beside = frozenset(inside)
        for last in inside:
            before, number = _counted(last, beside)
            if before and (*words(before), "0") not in PHRASES:
                for parent in parents:
                    row = rows.setdefault((place_of(parent), before), {})
                    row.setdefault(number, []).append(path_in(parent, last))
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


def _by_position(paths: Modules) -> dict[str, str]:
    """Return how members of lists are read that are told by their number alone: `linears.1` is the key."""
    found: dict[str, str] = {}
    for inside, rows in paths.items():
        members = {int(last): last for last in inside if last.isdecimal()}
        for row in rows if members else ():
            parent, _, name = row.rpartition(".")
            said = PROJECTIONS.get(name, ())
            if said and sorted(members) == list(range(len(said))) and _is_attention(parent, row, paths):
                found |= {path_in(row, members[n]): path_in(parent, meant) for n, meant in enumerate(said)}
    return found


def _is_attention(module: str, row: str, paths: Modules) -> bool:
    """Return whether a module is called an attention, or holds nothing but one list: other lists may be of heads of a model."""
    if attends(module.rpartition(".")[2]):
        return True
    start = f"{module}." if module else ""
    others = (other for parents in paths.values() for other in parents if other != row)
    return not any(other == module or other.startswith(start) for other in others)


def _beside_queries(paths: Modules) -> dict[str, str]:
    """Return how `out` is read beside query, key and value of one module, in one or apart: as the projection of the attention's output."""
    return {
        path_in(parent, back): path_in(parent, "o")
        for inside, parents in paths.items()
        for back in BACK.intersection(inside)
        if any(projections <= {word for last in inside for word in canonical(last)[-1:]} for projections in FROM_INPUT)
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
        path_in(parent, last): path_in(parent, meant)
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
            layers = {last: shape for last in inside if (shape := shapes.get(path_in(parent, last))) is not None}
            told = next((names for pair in meant if (names := _with_down(pair, layers))), ())
            found |= {
                path_in(parent, last): path_in(parent, name) for last, name in zip(told, GATED_PARTS, strict=False)
            }
    return found


def read_plain(
    paths: Modules, said: Mapping[str, str], shapes: Mapping[str, Shape], others: Iterable[str]
) -> dict[str, str]:
    """Return how the two layers of a plain network are read, up and back down: by words that gated ones have too, or by numbers.

    `said` is how paths were read before, `shapes` are those of matrices by their paths, `others` the paths of the other side.
    No other matrix lies beside the two, and what the first reads is the commoner size: an adapter goes down first. What both
    sides have stays as it is, and numbers count only where the other side has words.
    """
    pairs = [(pair, parents) for inside, parents in paths.items() for pair in _ups_and_downs(inside)]
    if not pairs:
        return {}
    beyond = [*others]
    spoken, places = any(map(_says_up, beyond)), {*map(place_of, beyond)}
    theirs = {words(path.rpartition(".")[2]) for path in beyond}
    beside = Counter(path.rpartition(".")[0] for path in shapes)
    sizes = Counter(size for shape in shapes.values() for size in shape)
    found: dict[str, str] = {}
    for (up, down), parents in pairs:
        for parent in parents:
            both = path_in(parent, up), path_in(parent, down)
            there, back = shapes.get(both[0], (0, 0)), shapes.get(both[1], ())
            told = (spoken and place_of(both[0]) not in places) if up.isdecimal() else words(up) not in theirs
            widens = there == back[::-1] and sizes[there[1]] > sizes[there[0]]
            if told and widens and beside[parent] == len(both) and said.keys().isdisjoint(both):
                found |= {path: path_in(parent, name) for path, name in zip(both, PLAIN_PARTS, strict=True)}
    return found


def read_tables(tables: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return how tables are read that are called embeddings of nothing, where the `others` call theirs those of tokens.

    `tables` are the paths of matrices without a bias. What either side calls by both words stays as it is.
    """
    ours = [(path, canonical(path)[-1:]) for path in tables]
    plain = [path for path, said in ours if said == PLAIN_TABLE]
    if not plain or any(said == TOKENS for _, said in ours):
        return {}
    theirs = {canonical(path)[-1:] for path in others}
    told = TOKENS in theirs and PLAIN_TABLE not in theirs
    return {path: path_in(path.rpartition(".")[0], "embed_tokens") for path in plain} if told else {}


def _ups_and_downs(inside: Sequence[str]) -> list[tuple[str, str]]:
    """Return what a module may have as the two layers of a plain network: by words, and by their numbers in a row."""
    read = {words(last): last for last in inside}
    found = [(read[up], read[down]) for up, down in PLAIN if up in read and down in read]
    numbered = sorted(inside, key=int) if all(map(str.isdecimal, inside)) else ()
    return [*found, *combinations(numbered, 2)] if len(numbered) <= FEW_LAYERS else found


def _says_up(path: str) -> bool:
    """Return whether the last segment of a path is a word for the first layer of a plain network."""
    last = path.rpartition(".")[2]
    return canonical(last) == FIRST_LAYER or any(words(last) == up for up, _ in PLAIN)


def _with_down(pair: tuple[str, str], layers: Mapping[str, Shape]) -> tuple[str, ...]:
    """Return two layers with the only other one, where that has their one shape turned round; () elsewhere."""
    shape, others = layers.get(pair[0], ()), layers.keys() - {*pair}
    fits = layers.get(pair[1]) == shape and [layers[last] for last in others] == [shape[::-1]] != [shape]
    return (*pair, *others) if fits else ()


def _gates(inside: Sequence[str], said: Mapping[str, str], parent: str) -> list[tuple[str, str]]:
    """Return what a module may have as gate and up: by name, and by number."""
    read: dict[tuple[str, ...], str] = {}
    for last in inside:
        read[canonical(said.get(path_in(parent, last), last).rpartition(".")[2])] = last
        read.setdefault(words(last), last)
    found = [(read[gate], read[up]) for gate, up in ((("gate",), ("up",)), *PARALLEL) if gate in read and up in read]
    gates = [last for last in inside if GATE in words(last)]
    return found or [(gates[0], last) for last in inside if len(gates) == 1 and last != gates[0]]
