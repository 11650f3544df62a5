"""Conversions: what a function does, learned from tensors whose elements say where they come from, and plans turned round."""

from torchgraft.learning.learned import Learned, inverse_of, learn, to_plain

__all__ = ["Learned", "inverse_of", "learn", "to_plain"]
