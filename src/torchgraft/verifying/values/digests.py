"""Whether the values in a checkpoint are those that its writer took the digests of."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from torchgraft.core.facts import digests_of
from torchgraft.core.results.inspection import DigestCheck
from torchgraft.core.specs import Network, Source, TensorSpec
from torchgraft.core.system.progress import Ticks

PIECE = 4 << 20


def check_digests(source: Source, network: Network, progress: Callable[[int, int], None] | None = None) -> DigestCheck:
    """Read every tensor of `network`, in file order, and compare it with the SHA-256 that the checkpoint states.

    In memory at one time: a piece of one tensor. A tensor that lies there under several names is read once. `progress`
    hears bytes done and in all.

    Raises:
        CheckpointError: a tensor can't be read, or a checksum of the format itself is wrong.
    """
    stated, shared = digests_of(source.metadata), network.shared or {}
    differing, without = [], []
    names = [name for name in network.specs if name not in shared]
    tick = Ticks(progress, sum(network.specs[name].nbytes for name in names)).tick
    for name in sorted(names, key=lambda name: source.position(network.path, name)):
        found = digest(source, network.path, network.specs[name], tick)
        if name not in stated:
            without.append(name)
        elif stated[name] != found:
            differing.append(name)
    missing = tuple(name for name in stated if name not in network.specs)
    compared = len(names) - len(without)
    return DigestCheck(compared=compared, differing=tuple(differing), missing=missing, without=tuple(without))


def digest(source: Source, network: str, spec: TensorSpec, tick: Callable[[int], None]) -> str:
    """Return the SHA-256 (hex) of a tensor's bytes in C order, little-endian on the machines that torchgraft writes on.

    `tick` hears of bytes as they are read.
    """
    found = sha256()
    buffer = memoryview(bytearray(min(PIECE, spec.nbytes)))
    for at in range(0, spec.nbytes, PIECE):
        piece = buffer[: min(PIECE, spec.nbytes - at)]
        source.read_into(network, spec.name, piece, at)
        found.update(piece)
        tick(len(piece))
    return found.hexdigest()
