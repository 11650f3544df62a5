"""Checkpoints out: whole files or none, in safetensors or in torch's own zip format, in one file or in shards."""

from torchgraft.core.system.commit import expect_writable, write_bytes
from torchgraft.writing.content import TORCH
from torchgraft.writing.convert import content_of, dtype_of, run_name, uncovered
from torchgraft.writing.save import FORMATS, format_of, save, write
from torchgraft.writing.shards import may_replace, size_of

__all__ = [
    "FORMATS", "TORCH", "content_of", "dtype_of", "expect_writable", "format_of", "may_replace", "run_name", "save",
    "size_of", "uncovered", "write", "write_bytes",
]  # fmt: skip
