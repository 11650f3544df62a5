"""Models that several processes hold together: planned once, and each process reads what its shards need."""

from torchgraft.spreading.members import Share, team_of

__all__ = ["Share", "team_of"]
