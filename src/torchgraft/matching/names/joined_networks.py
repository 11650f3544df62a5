"""Networks that hold others: a dictionary of several state dicts, each of which may be the model, or a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torchgraft.core.specs import Network, Shape, Slot
from torchgraft.matching.tables.dialect import WRAPPERS


def is_inside(path: str, parent: str) -> bool:
    """Return whether a network lies in another."""
    return path != parent and (parent == "" or path.startswith(parent + "/"))


def settled_parents(networks: Sequence[Network], held: Sequence[Network], slots: Sequence[Slot]) -> list[Network]:
    """Return, of networks that fit the model equally, either those that hold others or what they hold.

    One whose parts are named as parts of the model, each in a state dict of its own (`{"backbone": ..., "head": ...}`), stands
    for them. One that holds hardly more than they do gives way to them: it would bring in what lies beside them. `held` are
    all networks of the file.
    """
    apart = [n for n in networks if _is_kept_in_parts(n, networks, slots) or _is_split_as_model(n, held, slots)]
    left = [n for n in networks if not any(is_inside(n.path, whole.path) for whole in apart)]
    return [n for n in left if n in apart or not _only_joins(n, left)]


def _only_joins(parent: Network, networks: Sequence[Network]) -> bool:
    """Whether a network has few tensors beside those of the networks in it."""
    inside = [n for n in networks if is_inside(n.path, parent.path)]
    beside = len(parent.specs) - len({name for n in inside for name in _joined(parent, n)})
    return bool(inside) and 2 * beside < min(len(n.specs) for n in inside)


def _is_kept_in_parts(parent: Network, networks: Sequence[Network], slots: Sequence[Slot]) -> bool:
    """Whether the model has parts called as those of the network, beyond what a single network in it would fill.

    With two in it that aren't called as a part of the model, any of them may be the model: it isn't one in parts.
    """
    inside = [n for n in networks if is_inside(n.path, parent.path)]
    wanted = {said: slot.spec.shape for slot in slots for name in slot.names for said in _readings(name)}
    if not inside:
        return False
    hits = {name for name, spec in parent.specs.items() if _is_called(_plain(name), spec.shape, wanted)}
    unnamed = [n for n in inside if hits.isdisjoint(_joined(parent, n))]
    if len(unnamed) > 1:
        return False
    first = (unnamed or inside)[0]
    own = {_plain(name) for name in first.specs} if unnamed else set()
    return any(_plain(name) not in own for name in hits.difference(_joined(parent, first)))


def _is_split_as_model(parent: Network, held: Sequence[Network], slots: Sequence[Slot]) -> bool:
    """Whether two parts or more of a network are called as modules of the model, whatever is in them.

    One of them alone would pass for the whole file: where layers are stacked, only the table of words may have a place.
    """
    modules = {said.partition(".")[0] for slot in slots for name in slot.names for said in _readings(name)}
    at = len(parent.path) + 1 if parent.path else 0
    return len(modules & {n.path[at:] for n in held if is_inside(n.path, parent.path)}) > 1


def _is_called(name: str, shape: Shape, wanted: Mapping[str, Shape]) -> bool:
    """Whether the model has a tensor of that name, with the same shape but for its rows: a head may be for other classes."""
    ours = wanted.get(name)
    return ours is not None and len(ours) == len(shape) and ours[1:] == shape[1:]


def _joined(parent: Network, part: Network) -> list[str]:
    """Return the names that the tensors of a network have in the one that holds it."""
    path = part.path[len(parent.path) :].strip("/").replace("/", ".")
    return [f"{path}.{name}" for name in part.specs]


def _readings(name: str) -> Iterator[str]:
    """Yield what a tensor of the model may be called in the file: as it is, or without the wrappers around the model."""
    yield _plain(name)
    head, _, rest = name.partition(".")
    if rest and head in WRAPPERS:
        yield from _readings(rest)


def _plain(name: str) -> str:
    """Return a name without wrappers in its middle."""
    head, *middle = name.split(".")
    return ".".join([head, *(part for part in middle if part not in WRAPPERS)])
