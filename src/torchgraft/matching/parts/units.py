"""Tensors of one module kept together: a unit is a module's weight, bias and statistics, or a single bare tensor."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from math import prod
from operator import attrgetter

from torchgraft.core.match import Leaf
from torchgraft.core.names import parent_of
from torchgraft.core.specs import Shape
from torchgraft.core.system.fast_objects import maker
from torchgraft.matching.names.attentions import read_attentions, with_attentions
from torchgraft.matching.names.lists import blocks_around, by_content, numbered_lists, numbers, stem
from torchgraft.matching.names.readings import read_beside, read_gated, read_plain, read_tables
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.dialect import RAW_PAIRS, ROLES, WEIGHT_BESIDE_BIAS

BARE = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Leaves of one module by canonical role."""

    path: str  # the module's name, or that of a bare tensor
    leaves: dict[str, Leaf]
    blocks: tuple[str, ...]  # the members of numbered lists around it, outermost first
    order: int
    home: str = ""  # the innermost module around it that holds more than this
    said: str = ""  # the path as it is read, where what stands beside it makes that another
    # Where a few members of a list stand for all: for how many each of the blocks stands, and at last the unit itself; and
    # where the blocks stand in the whole list, and how long that is.
    times: tuple[float, ...] = ()
    places: tuple[tuple[int, int] | None, ...] = ()
    # Kept, because each unit is asked for them some ten times.
    parent: str = field(init=False, repr=False, compare=False)  # the path before its last segment
    last: str = field(init=False, repr=False, compare=False)  # that segment
    block: str = field(init=False, repr=False, compare=False)  # the innermost numbered block around it, "" without one
    tail: str = field(init=False, repr=False, compare=False)  # the path within that block

    def __post_init__(self) -> None:
        parent, _, last = self.path.rpartition(".")
        block = self.blocks[-1] if self.blocks else ""
        _set_parent(self, parent)
        _set_last(self, last)
        _set_block(self, block)
        _set_tail(self, self.path[len(block) + 1 :] if block else self.path)

    @property
    def words(self) -> tuple[str, ...]:
        """The canonical words of the path, with the numbers of the lists that it stands in set aside."""
        return _words(self.said or self.path, self.blocks)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers in the path."""
        return numbers(self.path)

    @property
    def groups(self) -> tuple[str, ...]:
        """The numbered blocks around the module and its home: those whose members belong together."""
        return self.blocks if self.home in self.blocks or not self.home else (*self.blocks, self.home)

    @property
    def tails(self) -> tuple[str, ...]:
        """The path within each of the blocks; the whole path where there is none."""
        return tuple(self.path[len(block) + 1 :] for block in self.blocks) or (self.path,)

    @property
    def weight(self) -> float:
        """For how many units it stands."""
        return prod(self.times)

    @property
    def group_weights(self) -> tuple[float, ...]:
        """For how many units it stands inside each of the `groups`; inside of none where there are none."""
        inside = [prod(self.times[at + 1 :]) for at in range(len(self.blocks))]
        return (*inside, prod(self.times[-1:]))

    @property
    def tail_weights(self) -> tuple[float, ...]:
        """For how many blocks that have such a tail it stands, for each of the `tails`."""
        return tuple(prod(self.times[: at + 1]) for at in range(len(self.blocks))) or (1.0,)

    @property
    def numel(self) -> int:
        """Number of elements of all leaves."""
        return sum(leaf.numel for leaf in self.leaves.values())


# As object.__setattr__ does, in half the time.
_set_parent, _set_last, _set_block, _set_tail = (
    Unit.__dict__[name].__set__ for name in ("parent", "last", "block", "tail")
)
_make_unit = maker(Unit)


def group(leaves: Sequence[Leaf], others: Iterable[Leaf] = ()) -> list[Unit]:
    """Return the units in order of their first leaf; `others` are the leaves of the other side."""
    unclear = {leaf.owner for leaf in leaves if leaf.role not in ROLES}
    beside: dict[str, dict[str, Leaf]] = {owner: {} for owner in unclear}
    for leaf in leaves if unclear else ():
        if leaf.owner in unclear:
            beside[leaf.owner][leaf.role] = leaf
    found: dict[str, dict[str, Leaf]] = {}
    for leaf in leaves:
        path = leaf.owner
        role = ROLES.get(leaf.role) or _role(leaf.role, beside[path].keys())
        if role == BARE:
            path, role = _raw(leaf, path, leaf.role, beside[path])
        roles = found.setdefault(path, {})
        if role in roles:
            found[leaf.name] = {BARE: leaf}
        else:
            roles[role] = leaf
    _join_biases(found)
    modules = by_content(found)
    beyond = dict.fromkeys([leaf.owner for leaf in others])  # in their order
    said = read_beside(modules, beyond)
    matrices = _matrices(found)
    said |= read_gated(modules, said, matrices)
    said |= read_plain(modules, said, matrices, beyond)
    said |= read_tables([path for path in matrices if found[path].keys() == {"weight"}], beyond)
    held = {parent: len(inside) for inside, parents in modules.items() for parent in parents}
    if with_attentions([*held, *map(parent_of, said.values())]):
        said |= _in_attentions(found, said, beyond)
    blocks, homes = blocks_around(held, numbered_lists(modules)), _homes(held)
    return [
        _make_unit(
            path=path, leaves=roles, blocks=blocks[parent], order=min(map(_order, roles.values())),
            home=homes[parent], said=said.get(path, ""),
        )
        for path, roles in found.items() for parent in [parent_of(path)]
    ]  # fmt: skip


_order = attrgetter("order")


def _matrices(found: Mapping[str, Mapping[str, Leaf]]) -> dict[str, Shape]:
    return {
        path: leaf.shape
        for path, roles in found.items()
        if (leaf := roles.get("weight")) is not None and len(leaf.shape) == 2
    }


def _join_biases(found: dict[str, dict[str, Leaf]]) -> None:
    """Put biases that lie beside their layer into it, where one layer is meant: `q_bias` beside `query.weight`."""
    alone = [path for path, roles in found.items() if roles.keys() == {"bias"} and _lies_beside(roles["bias"])]
    if not alone:
        return
    layers: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for path, roles in found.items():
        if "weight" in roles and "bias" not in roles:
            layers.setdefault(_read(path), []).append(path)
    for path in alone:
        meant = layers.get(_read(path), [])
        if len(meant) == 1 and found[path]["bias"].numel in found[meant[0]]["weight"].shape:
            found[meant[0]] |= found.pop(path)


def _lies_beside(bias: Leaf) -> bool:
    return bias.form == "plain" and bias.keys[0].endswith("_bias")


def _read(path: str) -> tuple[str, tuple[str, ...]]:
    """Return what a module lies in, and how its own name reads."""
    parent, _, last = path.rpartition(".")
    return parent, canonical(last)


def _in_attentions(paths: Iterable[str], said: Mapping[str, str], others: Iterable[str]) -> dict[str, str]:
    """Return how paths are read of what belongs to one of several attentions of a block, after they were read as `said`."""
    shown = {path: said.get(path, path) for path in paths}
    read = read_attentions(shown.values(), others)
    return {path: read[name] for path, name in shown.items() if name in read} if read else {}


def _homes(held: Mapping[str, int]) -> dict[str, str]:
    """Return, for each module that holds units (so many), the innermost from there on outwards around two units or more."""
    shared = around_several(held)
    homes: dict[str, str] = {}
    for parent in held:
        around = parent
        while around and around not in shared:
            around = parent_of(around)
        homes[parent] = around
    return homes


def around_several(held: Mapping[str, int]) -> set[str]:
    """Return the modules around two units or more, of modules that hold so many."""
    inside, shared = set(held), {parent for parent, count in held.items() if count > 1}
    for parent, count in held.items():
        around = parent
        while around:
            around = parent_of(around)
            if around in shared:
                break  # and so is all that is around it, now or once its own turn has come
            (shared if count > 1 or around in inside else inside).add(around)
    return shared


def blocks_of(units: Iterable[Unit]) -> set[str]:
    """Return the numbered blocks around all the units."""
    return set(chain.from_iterable({unit.blocks for unit in units}))


def _raw(leaf: Leaf, owner: str, last: str, beside: Mapping[str, Leaf]) -> tuple[str, str]:
    """Return path and role of a raw tensor: `fc_w` beside `fc_b` are weight and bias of `fc`, others stand alone.

    The bias must be as long as one side of the weight.
    """
    for weight, bias in RAW_PAIRS:
        for end, role in ((weight, "weight"), (bias, "bias")):
            stem = last.removesuffix(end) if len(last) > len(end) else last
            if stem == last:
                continue
            whole, added = beside.get(stem + weight), beside.get(stem + bias)
            if whole and added and len(added.shape) == 1 < len(whole.shape) and added.shape[0] in whole.shape:
                return (f"{owner}.{stem}" if owner else stem), role
    return leaf.name, BARE


def _role(last: str, beside: AbstractSet[str]) -> str:
    """Return the role of a tensor whose name alone doesn't say it."""
    if last in WEIGHT_BESIDE_BIAS and (beside & {"bias", "beta", "b", "offset"} or len(beside) == 1):
        return "weight"
    return BARE


@lru_cache(maxsize=20_000)
def _words(path: str, blocks: tuple[str, ...]) -> tuple[str, ...]:
    parts = path.split(".")
    for block in blocks:
        at = block.count(".")
        before = stem(parts[at]) if at < len(parts) else ""  # it may be read as no member of a list: `linears.0` as `q`
        if before:
            parts[at] = before.rstrip("-_")
    return canonical(".".join(parts))


def keeps_statistics(roles: Container[str]) -> bool:
    """Whether a module of these roles keeps mean and variance of what it sees."""
    return "mean" in roles and "var" in roles


@lru_cache(maxsize=20_000)
def shape_class(shape: Shape) -> Shape:
    """Return what transposing, permuting and squeezing leave unchanged: the sorted sizes above one."""
    return tuple(sorted(d for d in shape if d != 1))


@lru_cache(maxsize=20_000)
def flat_class(shape: Shape) -> Shape:
    """Return what flattening all but the first dimension leaves unchanged."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (*shape, 1) if shape else (1, 1)


def kind_of(unit: Unit) -> tuple[tuple[str, Shape], ...]:
    """Return what units that could stand for each other have in common: their roles and shapes, counters left out."""
    return tuple(sorted((role, shape_class(leaf.shape)) for role, leaf in unit.leaves.items() if role != "count"))


def same_roles(a: Unit, b: Unit) -> list[tuple[Leaf, Leaf]]:
    """Return the pairs of leaves that would feed each other; a bare tensor stands for a lone weight."""
    pairs = [(leaf, b.leaves[role]) for role, leaf in a.leaves.items() if role in b.leaves]
    if not pairs and len(a.leaves) == 1 and len(b.leaves) == 1 and set(a.leaves) | set(b.leaves) == {BARE, "weight"}:
        pairs = [(next(iter(a.leaves.values())), next(iter(b.leaves.values())))]
    return pairs
