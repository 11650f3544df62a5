"""Nothing is called loaded that was not compared, after writing, with what the checkpoint holds."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from torchgraft.core.places import places
from torchgraft.core.plan import Action
from torchgraft.core.report import Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

    from torchgraft.core.plan import Plan, Step
    from torchgraft.core.specs import Source

PAGE = 4096
SMALL = 4 * PAGE


def compare_values(model: nn.Module, plan: Plan, source: Source, digests: Mapping[str, int]) -> tuple[Check, ...]:
    """Compare each filled slot, looked up in the model by each of its names, with the checkpoint or its checksum.

    A slot that was computed has a checksum in `digests`, taken of the values before they were written: it is compared
    in full. A slot that is a copy is read once more: in full up to 16 KiB, else its first, middle and last page. So
    a slot that another one overwrote, a wrong order of elements and a broken tie are found; a single wrong element in
    the middle of a large copy is the business of the file's own checksums.
    """
    found = {place.name: place.tensor for place in places(model)}
    tally = {"full": 0, "sampled": 0}
    wrong: list[str] = []
    for step in plan.steps:
        if step.action is Action.FRESH:
            continue
        tensor = found[step.slot.name].detach()
        how = "full" if step.slot.name in digests or step.slot.spec.nbytes <= SMALL else "sampled"
        tally[how] += 1
        if not _is_tied(step, found) or not _holds(step, tensor, source, digests):
            wrong.append(step.slot.name)
    return (_check(tally, wrong),)


def _check(tally: Mapping[str, int], wrong: list[str]) -> Check:
    total = sum(tally.values())
    text = f"{total} tensor{'s' * (total != 1)} compared after writing: {tally['full']} in full, {tally['sampled']} by their first, middle and last page"
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        text = f"{len(wrong)} of {text}; differing: {', '.join(wrong[:8])}{more}"
    return Check("values", not wrong, text)


def _is_tied(step: Step, found: Mapping[str, torch.Tensor]) -> bool:
    """Return whether all names of the slot still lead to one memory."""
    first = found[step.slot.name]
    for name in step.slot.aliases:
        other = found[name]
        if other is not first and other.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
    return True


def _holds(step: Step, tensor: torch.Tensor, source: Source, digests: Mapping[str, int]) -> bool:
    digest = digests.get(step.slot.name)
    if digest is not None:
        return _checksum(_region(step, tensor)) == digest
    feed = step.feeds[0]
    lying = _bytes(tensor)
    for start, stop in _samples(len(lying)):
        again = memoryview(bytearray(stop - start))
        source.read_into(feed.network, feed.key, again, start)
        if lying[start:stop] != again:
            return False
    return True


def _samples(size: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges to compare: everything when small, else the first, middle and last page."""
    if size <= SMALL:
        if size:
            yield 0, size
        return
    middle = size // 2 // PAGE * PAGE
    yield 0, PAGE
    yield middle, middle + PAGE
    yield size - PAGE, size


def _region(step: Step, tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of the slot that the step writes."""
    import torch

    if step.rows is None:
        return tensor
    return tensor.index_select(step.rows.dim, torch.tensor(step.rows.indices, dtype=torch.long, device=tensor.device))


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(_bytes(tensor))


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes in C order: a view of plain CPU memory, else a copy."""
    import torch

    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
