"""What checkpoints hold, and how two of them differ: inspect() and diff()."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft import diffing
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import listed
from torchgraft.core.results.diff import Diff
from torchgraft.core.results.inspection import Inspection, summarise
from torchgraft.core.specs import Network, Source
from torchgraft.core.system.fast_objects import collector_paused
from torchgraft.matching import choose, has_network, told_path
from torchgraft.reading import open_checkpoint
from torchgraft.reporting import renderers

if TYPE_CHECKING:
    from torchgraft.matching.select import Choice


def inspect(
    checkpoint: object,
    *,
    prefer: str | None = None,
    verify: bool = False,
    statistics: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Return what a checkpoint holds: format, networks, names, shapes, types and the facts beside them.

    Reads no values, runs nothing of the file, and doesn't import torch for files. With `verify` every tensor of the
    chosen network is read, and compared with the SHA-256 that torchgraft writes beside tensors: see `verification`;
    `progress` hears bytes done and in all meanwhile.
    With `statistics` every tensor is read, too, and what is strange about values is reported: see `statistics`; `progress`
    hears of that reading as well, counted anew.

    Raises:
        CheckpointError: the file can't be read.
        UsageError: `prefer` names no network of the file.
    """
    with collector_paused(), open_checkpoint(checkpoint) as source:
        choice = choose(source.networks, (), prefer)
        found = summarise(source, choice.network, choice.rivals, choice.note)
        if verify:
            from torchgraft.verifying import check_digests

            found = replace(found, verification=check_digests(source, choice.network, progress))
        if statistics:
            from torchgraft.verifying import find_suspicions

            found = replace(found, statistics=find_suspicions(source, choice.network, choice.network.specs, progress))
    return replace(found, renderers=renderers("inspection"))


def diff(
    old: object,
    new: object,
    *,
    values: bool = False,
    prefer: str | None = None,
    rename: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diff:
    """Return how two checkpoints (or a checkpoint and a model) differ: names, shapes, types and, on request, values.

    `prefer` says which of several networks is meant, on the sides that have it. `rename` says what names of the old side are
    called on the new one, as for load(); the result has each side's own. While values are compared, `progress` hears bytes
    done and in all.

    Raises:
        CheckpointError: a file can't be read.
        UsageError: `prefer` names no network of either side, or `rename` nothing on the old one, or gives two one name.
    """
    with open_checkpoint(old) as first, open_checkpoint(new) as second:
        both = (first, second)
        named = [has_network(s.networks, prefer) for s in both]
        wanted = [prefer if is_named or not any(named) else None for is_named in named]
        sides = [(s, choose(s.networks, (), name)) for s, name in zip(both, wanted, strict=True)]
        left, right = ((source, choice.network) for source, choice in sides)
        if rename:
            left = left[0], _renamed(left[1], rename)
        found = diffing.compare_with_values(left, right, progress) if values else diffing.compare(left, right)
        notes = tuple(
            note for source, choice in sides if (note := _other_networks(source, choice, named=prefer is not None))
        )
    return replace(found, notes=notes, renderers=renderers("diff"))


def _renamed(network: Network, rename: Mapping[str, str]) -> Network:
    """Return the network with its tensors under other names; each spec keeps the file's own."""
    from torchgraft.request import make_request

    rules = make_request(rename=rename).rules
    rules.check(list(network.specs))
    shown = rules.present(network.specs)
    twice = [name for name, count in Counter(name for name, _ in shown).items() if count > 1]
    if twice:
        raise UsageError(
            f"rename= lets several tensors of the old side be {printable(twice[0])!r}: leave all but one out of it"
        )
    return replace(network, specs={name: network.specs[key] for name, key in shown})


def _other_networks(source: Source, choice: Choice, *, named: bool) -> str:
    """Return a remark on networks beside the one that was compared; nothing where there are none, or it was `named`."""
    from torchgraft.writing import uncovered

    origin = printable(source.origin)
    if choice.rivals:
        first, *others = (told_path(path) for path in (choice.network.path, *choice.rivals))
        return (
            f"{origin} holds several networks that fit equally well: {first} was compared, not {', '.join(others)}; say "
            "which with prefer="
        )
    others = [] if named else uncovered(source, choice.network)
    inner = [path for path in others if path and not f"{choice.network.path}/".startswith(f"{path}/")]
    left = [told_path(path) for path in inner or others]
    were = "was" if len(left) == 1 else "were"
    return f"{origin} also holds {listed(left, 4)}, which {were} not compared; say which with prefer=" if left else ""
