"""Models that several processes hold together: planned once, and each process reads what its shards need."""

from torchgraft.spreading.processes import Share, own_share, processes_of

__all__ = ["Share", "own_share", "processes_of"]
