"""Models that several processes hold together: planned once, and each process reads what its shards need."""

from torchgraft.spreading.processes import Asked, Share, own_share, processes_of

__all__ = ["Asked", "Share", "own_share", "processes_of"]
