"""Learning what a conversion function does, from tensors whose elements say where they come from."""

from torchgraft.learning.learned import Learned, learn, to_plain

__all__ = ["Learned", "learn", "to_plain"]
