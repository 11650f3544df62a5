"""Models that several processes hold together: planned once, and each process reads what its shards need."""

from torchgraft.spreading.members import Share, foreseen, team_of

__all__ = ["Share", "foreseen", "team_of"]
