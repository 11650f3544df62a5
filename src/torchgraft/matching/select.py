"""Which of several networks in a file is meant: by the caller's word, by fit with the model, by a stated rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchgraft.core.errors import UnsupportedCheckpointError, UsageError, printable
from torchgraft.core.formatting import tensors
from torchgraft.core.specs import Network, Slot, TensorSpec
from torchgraft.matching.names.joined_networks import is_inside, settled_parents
from torchgraft.matching.names.sections import in_part

MOST_LISTED = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """The network to load from, why, and the others that fit as well (a choice that only the caller can make)."""

    network: Network
    note: str = ""
    rivals: tuple[str, ...] = ()


def choose(networks: Sequence[Network], slots: Sequence[Slot], prefer: str | None) -> Choice:
    """Return the network that is meant.

    The caller's `prefer` comes first: a container path, or one of its segments, or "ema". Else the network that
    shares most with the model; among equals the live weights before averaged ones, and none of two live ones. Without
    `slots` those are equal that have the same names and shapes.

    Raises:
        UsageError: `prefer` names nothing in the file.
    """
    usable = held = [n for n in networks if n.role != "optimizer"] or list(networks)
    if len(usable) == 1 and prefer is None:
        return Choice(usable[0], "" if usable[0].role != "optimizer" else "an optimizer's state, no weights of a model")
    if prefer is not None:
        chosen = [n for n in usable if _is_called(n, prefer)]
        if not has_network(usable, prefer):
            raise UsageError(
                f"prefer={prefer!r}: the file holds no such network; it holds {listed_networks(usable)}{_parts(usable)}"
            )
        usable = chosen or [n for n in usable if _has_segment(n.specs, prefer)]
    rated = sorted(((_overlap(n.specs, slots), -at) for at, n in enumerate(usable)), reverse=True)
    best = rated[0][0]
    equal = settled_parents([usable[-at] for rate, at in rated if rate >= 0.98 * best], usable, slots)
    live = [n for n in equal if n.role == "model"] or equal
    pool = [n for n in live if not any(is_inside(o.path, n.path) for o in live)]
    equals = _alike(pool) if not slots else pool[1:] if best > 0 else []
    rivals = equals if prefer is None else []
    rule = (
        "it shares most with the model"
        if slots
        else "the first that holds a model's weights; load takes what shares most with the model"
    )
    if not slots and pool[0].role == "other":
        rule = "the first; nothing in the file is known to be a model's weights"
    if rivals:
        rule = "the first of those that fit equally"
    asks = bool(rivals) and not slots  # then nothing is used before the caller has chosen
    note = "" if len(usable) == 1 or asks else _note(pool[0], usable, "as you prefer" if prefer else rule)
    whole = prefer and pool[0].role == "ema" and _with_buffers(pool[0], held, slots, prefer)
    if whole:
        return Choice(
            whole, f"the averages in {pool[0].path!r} lack buffers, which come from the live weights beside them"
        )
    return Choice(pool[0], note, tuple(n.path for n in rivals))


def _with_buffers(averages: Network, held: Sequence[Network], slots: Sequence[Slot], prefer: str) -> Network | None:
    """Return the network that joins averages with live weights, where only these have buffers of the model; else None.

    Many averages are of parameters only. `prefer` must tell them from the rest by the names in the joined network, too.
    """
    around = [n for n in held if is_inside(averages.path, n.path) and has_network([n], prefer)]
    if not around:
        return None
    joined = min(around, key=lambda n: len(n.specs))
    beside = {key: spec for key, spec in joined.specs.items() if not in_part(key, prefer)}
    own, more = ({(_end(key), spec.shape) for key, spec in specs.items()} for specs in (averages.specs, beside))
    wanted = {(_end(slot.name), slot.spec.shape) for slot in slots if slot.is_buffer and slot.persistent}
    return joined if wanted & (more - own) and len(beside) < len(joined.specs) else None


def has_network(networks: Sequence[Network], prefer: str | None) -> bool:
    """Return whether `prefer` names a network, or a part of one."""
    return prefer is not None and any(_is_called(n, prefer) or _has_segment(n.specs, prefer) for n in networks)


def told_path(path: str) -> str:
    """Return a container path as messages call it."""
    return repr(printable(path)) if path else "the top level (prefer='')"


def listed_networks(networks: Sequence[Network]) -> str:
    """Return what a file holds, for a caller who has to choose: paths, what is there, and how much of it."""
    found = [f"{told_path(n.path)}: {n.role}, {tensors(len(n.specs))}" for n in networks[:MOST_LISTED]]
    more = len(networks) - len(found)
    return "; ".join([*found, f"and {more} more"] if more else found) or "none"


def _parts(networks: Sequence[Network]) -> str:
    """Return what `prefer` can name within the networks of a file: the few parts that one of them consists of."""
    heads = {head: None for n in networks for name in n.specs if (head := name.partition(".")[0]) != name}
    return f"; its parts are {', '.join(map(repr, heads))}" if 1 < len(heads) <= MOST_LISTED else ""


def only(networks: Sequence[Network], origin: str) -> Network:
    """Return the network of a file that stands for a model.

    Raises:
        UsageError: the file holds several networks of the same names and shapes.
    """
    choice = choose(networks, (), None)
    if choice.rivals:
        equals = [n for n in networks if n.path in (choice.network.path, *choice.rivals)]
        raise UsageError(
            f"{printable(origin)} stands for a model and holds several networks ({listed_networks(equals)}): write the one "
            "that is meant to a file of its own, with convert and prefer="
        )
    return choice.network


def _alike(pool: Sequence[Network]) -> list[Network]:
    """Return the networks of the same names and shapes as the first: where it fits a model, so do they."""
    first = {name: spec.shape for name, spec in pool[0].specs.items()}
    return [n for n in pool[1:] if first == {name: spec.shape for name, spec in n.specs.items()}]


def require_weights(networks: Sequence[Network], origin: str) -> None:
    """Refuse a checkpoint of nothing but an optimizer's state: moments have the shapes of weights, and are none.

    Raises:
        UnsupportedCheckpointError: there are no weights in it.
    """
    if all(network.role == "optimizer" for network in networks):
        raise UnsupportedCheckpointError(
            f"{printable(origin)}: only optimizer state (no weights of a model): open the file that holds the state dict"
        )


def _is_called(network: Network, prefer: str) -> bool:
    if prefer in (network.path, network.path.replace("/", ".")) or prefer in network.path.split("/"):
        return True
    return prefer == "ema" and network.role == "ema"


def _has_segment(specs: Mapping[str, TensorSpec], prefer: str) -> bool:
    return any(in_part(key, prefer) for key in specs)


def _overlap(specs: Mapping[str, TensorSpec], slots: Sequence[Slot]) -> float:
    """Return the share of the model's elements whose last name segments and shape occur in the network."""
    ends = {(_end(key), spec.shape) for key, spec in specs.items()}
    bare = {spec.shape for spec in specs.values()}
    total = found = 0.0
    for slot in slots:
        if slot.persistent and slot.spec.numel:
            total += slot.spec.numel
            hit = (_end(slot.name), slot.spec.shape) in ends
            found += slot.spec.numel * (1.0 if hit else 0.3 * (slot.spec.shape in bare))
    return found / total if total else 0.0


def _end(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _note(chosen: Network, usable: Sequence[Network], rule: str) -> str:
    parts = [n for n in usable if is_inside(n.path, chosen.path)]
    others = [n for n in usable if n is not chosen and n not in parts and not is_inside(chosen.path, n.path)]
    others = [n for n in others if n.role != "other" or chosen.role == "other"]
    if rule != "as you prefer" and any(n.role == "ema" for n in others) and chosen.role == "model":
        rule = "live weights come before averaged ones"
    names = ", ".join(repr(n.path or "top level") for n in others[:6])
    joined = f" with all in it, {', '.join(repr(n.path) for n in parts[:6])}" if parts else ""
    if not names and not joined:
        return ""  # it is the only one, but for one that joins it with what lies beside it
    return f"network {chosen.path or 'top level'!r} of the file is used{joined} ({rule})" + (
        f"; not {names}" if names else ""
    )
