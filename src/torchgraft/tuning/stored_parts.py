"""Whether a checkpoint's optimizer is for the weights that were loaded, where the file holds others that are built alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import takewhile

from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import listed
from torchgraft.core.names import shared_start
from torchgraft.core.specs import Shape, Source
from torchgraft.tuning.stored_optimizer import StoredOptimizer

# Words for weights beside those that are optimized: averages of them, and copies from earlier.
_NOT_OPTIMIZED = frozenset({"ema", "averaged", "average", "swa", "teacher", "target", "best", "momentum"})


def require_optimized(
    stored: StoredOptimizer, assigned: Mapping[str, str], shapes: Mapping[str, Shape], network: str, source: Source
) -> None:
    """Raise UsageError where the state may as well be for other weights of the file: a network of its own, or a part of this one.

    `assigned` maps parameters of the loaded network to their numbers in `stored`, `shapes` has all that it holds. Of weights
    that are built alike those are taken that aren't called averages or copies.
    """
    part = _common_part(assigned)
    loaded = "/".join(filter(None, (network, part.rstrip("."))))
    rivals = [*_alike_networks(stored, network, source)]
    if tuple(assigned) != stored.names:
        rivals += [f"{network}/{path}" if network else path for path in _alike_parts(part, assigned, shapes)]
    live = [path for path in rivals if not _is_set_aside(path)]
    if not live:
        return
    if _is_set_aside(loaded):
        why = f"seems to be for {listed(live)}, and what was loaded are other weights of the same build, {loaded}"
    else:
        why = f"may be for {loaded} or for {listed(live)}, which are built alike"
    raise UsageError(
        f"optimizer state {stored.label!r} {why}; give names= to say that it is for what was loaded, or start this optimizer "
        "fresh"
    )


def _common_part(keys: Iterable[str]) -> str:
    """Return the dotted path that all these names begin with, with its last dot; empty where they have none."""
    columns = takewhile(
        lambda segments: len(set(segments)) == 1, zip(*(key.split(".")[:-1] for key in keys), strict=False)
    )
    return "".join(f"{segments[0]}." for segments in columns)


def _alike_networks(stored: StoredOptimizer, path: str, source: Source) -> list[str]:
    """Return paths of other networks of the same names and shapes that lie no farther from the optimizer."""
    chosen = next((n for n in source.networks if n.path == path), None)
    if chosen is None:
        return []
    build = {name: spec.shape for name, spec in chosen.specs.items()}
    return [
        other.path
        for other in source.networks
        if other.path != path
        and _nearness(other.path, stored.network) >= _nearness(path, stored.network)
        and {name: spec.shape for name, spec in other.specs.items()} == build
    ]


def _nearness(path: str, other: str) -> int:
    """Return how many containers two paths have in common."""
    return shared_start(path.split("/")[:-1], other.split("/")[:-1])


def _alike_parts(part: str, assigned: Mapping[str, str], shapes: Mapping[str, Shape]) -> list[str]:
    """Return paths of other parts of the network that hold the same parameters as the part that is named."""
    ends = {key.removeprefix(part): shapes[key] for key in assigned if key in shapes}
    first = next(iter(ends), "")
    heads = [key.removesuffix(first) for key in shapes if part and key.endswith(f".{first}")]
    return [
        head.rstrip(".")
        for head in heads
        if head != part and all(shapes.get(head + end) == shape for end, shape in ends.items())
    ]


def _is_set_aside(path: str) -> bool:
    return not _NOT_OPTIMIZED.isdisjoint(re.split(r"[/._]", path.lower()))
