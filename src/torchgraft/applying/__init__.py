"""The only writer: fills a model by a plan, all or nothing."""

from torchgraft.applying.construct import on_meta, remembered, with_values
from torchgraft.applying.mapping import Home
from torchgraft.applying.memory_needed import memory_of
from torchgraft.applying.result import Applied
from torchgraft.applying.transaction import apply

__all__ = ["Applied", "Home", "apply", "memory_of", "on_meta", "remembered", "with_values"]
