"""What a checkpoint keeps of an optimizer, and which parameter each part of it belongs to.

`torch.optim.Optimizer.state_dict` numbers parameters group by group and knows no names, unless the optimizer was built
from `named_parameters()`. Names come, in this order, from the caller, from the file, or from the order of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.names import EMA_SEGMENTS, ends
from torchgraft.core.specs import Network, Shape, Source, TensorSpec

_KEY = re.compile(r"(?P<prefix>(?:[^.]+\.)??)state\.(?P<who>.+)\.(?P<field>[^.]+)")
_BARE = re.compile(r"(?P<prefix>)(?P<who>\d+)\.(?P<field>[^.]+)")
# At most so many ways of dealing parameters out to groups are followed; of more the right one can't be found.
MAX_PARTIAL_WAYS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOptimizer:
    """The state of one optimizer in a checkpoint: for each of its parameters (by number or name) the tensors by field.

    `numbers` are fields that are plain numbers (the step of optimizers before torch 1.12). `groups` are the parameters
    of each group in the optimizer's order, `names` their names where the file has them. `list_fields` are fields that are no
    tensor but a list or a dictionary of tensors.
    """

    network: str
    prefix: str
    fields: Mapping[str, Mapping[str, TensorSpec]]
    numbers: Mapping[str, Mapping[str, float]]
    groups: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()
    list_fields: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What the state is called in messages."""
        return printable("/".join(p for p in (self.network, self.prefix.rstrip(".")) if p) or "top level")

    @property
    def order(self) -> tuple[str, ...]:
        """All parameters, group after group."""
        return tuple(who for group in self.groups for who in group)

    @property
    def has_names(self) -> bool:
        """Whether the file says which parameter is which."""
        return bool(self.names) or not all(map(str.isdecimal, self.order))

    def key(self, who: str, field: str) -> str:
        """Return the key of a tensor in the network."""
        return self.fields[who][field].name


def stored_optimizers(source: Source) -> list[StoredOptimizer]:
    """Return the state of every optimizer in a checkpoint that holds any."""
    found = [
        state for network in source.networks if network.role == "optimizer" for state in _stored_in(network, source)
    ]
    if found:
        return found
    alone = [n for n in source.networks if n.path == "state" and all(_BARE.fullmatch(key) for key in n.specs)]
    return [state for network in alone for state in _stored_in(network, source)]


def _stored_in(network: Network, source: Source) -> list[StoredOptimizer]:
    by_prefix: dict[str, dict[str, dict[str, TensorSpec]]] = {}
    for key, spec in network.specs.items():
        match = (_KEY if network.role == "optimizer" else _BARE).fullmatch(key)
        if match:
            by_prefix.setdefault(match["prefix"], {}).setdefault(match["who"], {})[match["field"]] = spec
    return [_stored_optimizer(network.path, prefix, fields, source.metadata) for prefix, fields in by_prefix.items()]


def _stored_optimizer(
    path: str, prefix: str, fields: Mapping[str, Mapping[str, TensorSpec]], metadata: Mapping[str, object]
) -> StoredOptimizer:
    facts: Any = metadata.get("optimizers")
    facts = facts.get(path, {}).get(prefix, {}) if isinstance(facts, dict) else {}
    listed = facts.get("param_groups") or metadata.get("param_groups")
    listed = [g for g in listed if isinstance(g, dict)] if isinstance(listed, list) else []
    groups = tuple(tuple(str(who) for who in g.get("params") or ()) for g in listed)
    members = {who for group in groups for who in group}
    list_fields = {
        who: who.rpartition(".")[2] for who in fields if who not in members and who.rpartition(".")[0] in members
    }
    fields = {who: held for who, held in fields.items() if who not in list_fields}
    if not groups or not set(fields) <= members:
        groups = (tuple(sorted(fields, key=lambda who: (len(who), who))),)
    names = [str(name) for g in listed for name in g.get("param_names") or ()]
    return StoredOptimizer(
        network=path,
        prefix=prefix,
        fields=fields,
        numbers=facts.get("numbers") or {},
        groups=groups,
        names=tuple(names) if len(names) == sum(map(len, groups)) else (),
        list_fields=tuple(sorted(set(list_fields.values()))),
    )


def assign_parameters(
    stored: StoredOptimizer, parameters: Mapping[str, Shape], names: Sequence[str] | None
) -> dict[str, str]:
    """Return source parameter -> its number (or name) in the old optimizer.

    `parameters` are those of the source in the order in which its model registered them. `names` are the caller's: the
    old optimizer's parameters, group after group. Without names every group is taken to list its parameters in
    registration order, and there must be one way only to deal them out so that all shapes agree.

    Raises:
        UsageError: numbers, names or shapes don't agree, there are several ways, or a parameter has lists of tensors.
    """
    if stored.list_fields:
        raise UsageError(
            f"optimizer state {stored.label!r} keeps lists of tensors ({', '.join(map(printable, stored.list_fields))}), as "
            "L-BFGS does for all parameters together: only state of one tensor for each field of a parameter is carried; start "
            "this optimizer fresh"
        )
    if isinstance(names, str) or (names is not None and len(set(names)) < len(names)):
        raise UsageError(f"names={names!r:.120}: give a list of the old optimizer's parameters, each of them once")
    named = names if names is not None else (stored.names or stored.order) if stored.has_names else None
    if named is not None:
        if len(named) != len(stored.order):
            raise UsageError(f"names= has {len(named)} names, the old optimizer {len(stored.order)} parameters")
        assigned = dict(zip(_names_in_checkpoint(named, parameters), stored.order, strict=True))
    elif len(parameters) != len(stored.order):
        raise UsageError(
            f"optimizer state {stored.label!r} is for {len(stored.order)} parameters without names, the checkpoint has "
            f"{len(parameters)}; give names= (in the order of the old optimizer's groups)"
        )
    else:
        assigned = dict(zip(parameters, _by_order(stored, list(parameters.values())), strict=True))
    for name, who in assigned.items():
        if name in parameters and not _fits_shape(stored, who, parameters[name]):
            shapes = {field: list(spec.shape) for field, spec in stored.fields[who].items()}
            raise UsageError(
                f"optimizer state {stored.label!r}: number {who} should belong to {printable(name)} "
                f"{list(parameters[name])}, but holds {shapes}; give names= (in the order of the old optimizer's groups)"
            )
    return assigned


def _names_in_checkpoint(names: Sequence[str], parameters: Mapping[str, Shape]) -> Sequence[str]:
    """Return the names as the checkpoint writes them: as they are, or without a wrapper that all of them have, or in the one
    that it adds.
    """
    if any(name in parameters for name in names):
        return names
    found = _without_wrapper(names, parameters) or _in_wrapper(names, parameters)
    if not found:
        raise UsageError(
            f"the old optimizer's parameters have other names than the checkpoint's, e.g. {printable(names[0])}"
        )
    return found


def _without_wrapper(names: Sequence[str], parameters: Mapping[str, Shape]) -> list[str]:
    """Return the names without the path that all of them begin with and the checkpoint's don't; [] where there is none."""
    for own in list(ends(names[0]))[1:]:
        cut = len(names[0]) - len(own)
        if own in parameters and all(name.startswith(names[0][:cut]) for name in names):
            return [name[cut:] for name in names]
    return []


def _in_wrapper(names: Sequence[str], parameters: Mapping[str, Shape]) -> list[str]:
    """Return the names behind the one path that the checkpoint has before all of them; [] where none or several fit."""
    paths = (key.removesuffix(names[0]) for key in parameters if key.endswith(f".{names[0]}"))
    live = (path for path in paths if EMA_SEGMENTS.isdisjoint(path.split(".")))  # averages are not what was optimized
    wrappers = [path for path in live if all(path + name in parameters for name in names)]
    return [wrappers[0] + name for name in names] if len(wrappers) == 1 else []


def _by_order(stored: StoredOptimizer, shapes: Sequence[Shape]) -> list[str]:
    """Return the number of each parameter, if there is only one way to deal them out to the groups."""
    if len(stored.groups) == 1:
        return list(stored.groups[0])
    ways = interleavings(stored.groups, shapes, lambda who, shape: _fits_shape(stored, who, shape))
    if ways is not None and len(ways) == 1:
        return ways[0]
    how = "no way" if ways == [] else "more than one way"
    raise UsageError(
        f"optimizer state {stored.label!r} has {len(stored.groups)} groups of parameters without names, and there is {how} to "
        "deal the checkpoint's parameters out to them by shape; give names= (in the order of the old optimizer's groups)"
    )


def interleavings(
    groups: Sequence[Sequence[str]], shapes: Iterable[Shape], agrees: Callable[[str, Shape], bool]
) -> list[list[str]] | None:
    """Return up to two ways to interleave `groups`, each in its order, so that member n agrees with shape n.

    None where more than MAX_PARTIAL_WAYS would have to be followed: the only one left of some may be the wrong one.
    """
    ways: dict[tuple[int, ...], list[tuple[object, ...]]] = {(0,) * len(groups): [()]}
    for shape in shapes:
        further: dict[tuple[int, ...], list[tuple[object, ...]]] = {}
        for taken, paths in ways.items():
            for at, group in enumerate(groups):
                if taken[at] < len(group) and agrees(group[taken[at]], shape):
                    after = (*taken[:at], taken[at] + 1, *taken[at + 1 :])
                    longer = [(path, group[taken[at]]) for path in paths]
                    further[after] = (further.get(after, []) + longer)[:2]
        if len(further) > MAX_PARTIAL_WAYS:
            return None
        ways = further
    found = ways.get(tuple(len(group) for group in groups), [])
    return [_path_to_list(path) for path in found]


def _path_to_list(path: Any) -> list[str]:
    out: list[str] = []
    while path:
        path, who = path
        out.append(who)
    return out[::-1]


def _fits_shape(stored: StoredOptimizer, who: str, shape: Shape) -> bool:
    """Whether state can belong to a parameter of `shape`: a tensor of its shape, or its row and column means.

    Row and column means are those of Adafactor (Shazeer and Stern, 2018), with axes of size one or without. Scalars
    say nothing.
    """
    held = {spec.shape for spec in stored.fields.get(who, {}).values() if spec.shape}
    if not held or not shape or shape in held:
        return True
    *front, rows, columns = (1, *shape)
    bare, kept = {(*front, rows), (*front, columns)}, {(*front, rows, 1), (*front, 1, columns)}
    return len(shape) > 1 and {(1, *one) for one in held} in (bare, kept)
