"""Checkpoints out: whole files or none, in safetensors or in torch's own zip format."""

from torchgraft.writing.save import FORMATS, Saved, format_of, save, save_model

__all__ = ["FORMATS", "Saved", "format_of", "save", "save_model"]
