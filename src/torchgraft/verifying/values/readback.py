"""Values read back from the model after writing, and compared with what the checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import string_at
from operator import is_

from torchgraft.core.formatting import listed, tensors
from torchgraft.core.layout import is_ordinary
from torchgraft.core.places import Walk, walk_of
from torchgraft.core.plan import Plan, Step
from torchgraft.core.results.report import Check
from torchgraft.core.system.checksums import crc32
from torchgraft.core.types import Module, Tensor
from torchgraft.core.values import checksum, rows_of
from torchgraft.core.written import SMALL, Written, WrittenBatch


def compare_values(model: Module | Walk, plan: Plan, written: Written) -> tuple[Check, ...]:
    """Compare each filled slot, looked up in the model by each of its names, with the checkpoint or its checksum.

    A slot that was computed has a checksum in `written`, taken of the values before they were written: it is compared
    in full. One that was turned was compared block by block as it was written. Of it, and of slots that were read or cast
    straight from the file, samples are in `written`, of bytes that were read aside before they were written: all of it up to
    16 KiB, else its first, middle and last page. So a slot that another one overwrote, a wrong order of elements, a file that
    changed and a broken tie are found; a single wrong element in the middle of a large copy is left to the file's own
    checksums.
    """
    found = walk_of(model).held()
    together = {name for batch in written.batches for name in batch.names}
    counts = {"full": len(together), "sampled": 0, "mapped": 0}
    wrong = [name for batch in written.batches for name in _differing_slots(batch, found)]
    for step in [step for step in plan.steps if step.slot.spec.name not in together and (step.feeds or step.ops)]:
        name = step.slot.spec.name
        if name in written.mapped:
            counts["mapped"] += 1
            if not _is_tied(step, found):
                wrong.append(name)
            continue
        whole = name in written.digests or name in written.compared or step.slot.spec.nbytes <= SMALL
        counts["full" if whole else "sampled"] += 1
        if not _is_tied(step, found) or not _holds_written_values(step, found[name], written):
            wrong.append(name)
    return (_check(counts, wrong),)


def _differing_slots(batch: WrittenBatch, found: Mapping[str, Tensor]) -> list[str]:
    """Return the slots of a batch that hold other bytes than those that were read. Memory: one slot."""
    held = [found[name] for name in batch.names]
    plain = all(map(is_, held, batch.tensors)) or [one.nbytes for one in held if _is_plain(one)] == list(batch.sizes)
    if plain and [one.data_ptr() for one in held] == list(batch.addresses):
        checksums = [
            crc32(string_at(address, size), 0) for address, size in zip(batch.addresses, batch.sizes, strict=True)
        ]
    else:
        checksums = [checksum(tensor) for tensor in held]
    both = zip(batch.names, checksums, batch.checksums, strict=True)
    return [name for name, now, wanted in both if now != wanted]


def _check(counts: Mapping[str, int], wrong: list[str]) -> Check:
    full, sampled, mapped = counts["full"], counts["sampled"], counts["mapped"]
    text = f"{tensors(full + sampled)} compared after writing{_coverage_words(full, sampled)}"
    text += f"; {tensors(mapped)} mapped and not read" if mapped else ""
    if wrong:
        text = f"{len(wrong)} of {text}; differing: {listed(wrong, 8)}"
    return Check("values", not wrong, text)


def _coverage_words(full: int, sampled: int) -> str:
    pages = f"by {'its' if sampled == 1 else 'their'} first, middle and last page"
    if not sampled:
        return ", all in full" if full > 1 else ", in full" if full else ""
    return f": {full} in full, {sampled} {pages}" if full else f" {pages}"


def _is_tied(step: Step, found: Mapping[str, Tensor]) -> bool:
    """Return whether all names of the slot still lead to one memory."""
    first = found[step.slot.name]
    for name in step.slot.aliases:
        other = found[name]
        if other is not first and other.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
    return True


def _holds_written_values(step: Step, tensor: Tensor, written: Written) -> bool:
    name = step.slot.name
    digest = written.digests.get(name)
    if digest is not None:
        return checksum(rows_of(tensor.detach(), step.rows)) == digest
    samples = written.samples[name]
    first = tensor.data_ptr() if _is_plain(tensor) and tensor.nbytes == step.slot.spec.nbytes else 0
    if first:
        return all(crc32(string_at(first + start, stop - start), 0) == known for start, stop, known in samples)
    lying = _flat_bytes(tensor.detach())
    return all(checksum(lying[start:stop]) == known for start, stop, known in samples)


def _is_plain(tensor: Tensor) -> bool:
    """Return whether the values lie in this process's memory in C order, so that their address says where each is."""
    return tensor.is_cpu and is_ordinary(tensor) and tensor.is_contiguous()


def _flat_bytes(tensor: Tensor) -> Tensor:
    """Return the bytes in C order, on the device where they are: only what is compared is to be fetched from there."""
    import torch

    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
