"""A glance at the values of a checkpoint, for processes that must read the same one: names and shapes don't tell.

Each of them reads other parts, so that two checkpoints of one model, side by side on two machines, would end as a mixture.
"""

from __future__ import annotations

import hashlib
import os

from torchgraft.core.specs import Source

MOST_TENSORS = 2048
BYTES = 64


def values_digest(source: Source) -> str:
    """Return a digest of some bytes out of the middle of each tensor, of `MOST_TENSORS` evenly chosen ones at most.

    No checksums are taken meanwhile. What would have to be unpacked is left out.

    Raises:
        CheckpointError: the bytes can't be read.
    """
    found = hashlib.sha256()
    everything = [(network.path, spec) for network in source.networks for spec in network.specs.values()]
    in_memory = not source.stamps
    for path, spec in everything[:: -(-len(everything) // MOST_TENSORS) or 1]:
        size = min(BYTES, spec.nbytes)
        start = (spec.nbytes - size) // 2 // max(spec.dtype.itemsize, 1) * spec.dtype.itemsize
        if (extent := source.extent(path, spec.name, start, size)) is not None and hasattr(os, "pread"):
            found.update(os.pread(extent.fd, size, extent.offset))
        elif in_memory and size:
            piece = memoryview(bytearray(size))
            source.read_into(path, spec.name, piece, start)
            found.update(piece)
    return found.hexdigest()
