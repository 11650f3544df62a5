"""Saving tensors, or a model with its ties."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError, printable
from torchgraft.writing.content import SAFETENSORS, TORCH, Content
from torchgraft.writing.items import of_tensor

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    import torch
    from torch import nn

FORMATS = {
    ".safetensors": SAFETENSORS,
    ".pt": TORCH,
    ".pth": TORCH,
    ".bin": TORCH,
    ".ckpt": TORCH,
}


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that was written: its path and format, tensors and bytes stored, and names stored under another one."""

    path: str
    format: str
    tensors: int
    nbytes: int
    shared: Mapping[str, str]


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the format that the ending of an output path asks for.

    Raises:
        UsageError: the ending says nothing.
    """
    ending = os.path.splitext(os.fsdecode(path))[1].lower()  # noqa: PTH122
    if ending not in FORMATS:
        raise UsageError(f"output {printable(os.fsdecode(path))}: use one of the endings {', '.join(FORMATS)}")
    return FORMATS[ending]


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    file_format: str | None = None,
) -> Saved:
    """Write `tensors`, in their order, to `path`: the whole file or none.

    Names of one and the same memory are stored once; a safetensors file states the other names in its metadata, as
    safetensors' own `save_model` does. The file holds a SHA-256 of each tensor, which inspect(verify=True) compares.
    The format follows the ending unless `file_format` names it. Extra memory: one tensor for each thread, and only
    where its values don't lie in order on the CPU.

    Raises:
        UsageError: a name, value or ending that can't be written.
        WriteError: the file could not be written; what stood at its place is intact.
    """
    return _written(path, tensors, metadata or {}, file_format)


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    metadata: Mapping[str, str] | None = None,
    *,
    file_format: str | None = None,
) -> Saved:
    """Write the state dict of `model` to `path`; see `save`. Extra state that is no tensor goes into torch files only.

    Raises:
        UsageError: the model holds what the format can't.
        WriteError: the file could not be written; what stood at its place is intact.
    """
    return _written(path, model.state_dict(), metadata or {}, file_format)


def _written(
    path: str | os.PathLike[str], state: Mapping[str, object], metadata: Mapping[str, str], file_format: str | None
) -> Saved:
    import torch

    kind = file_format or format_of(path)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    _check(tensors, metadata)
    stored, shared = _without_duplicates(tensors)
    content = Content(
        items=[of_tensor(name, tensor) for name, tensor in stored.items()], names=list(state), shared=shared,
        others={name: value for name, value in state.items() if name not in tensors},
        versions=getattr(state, "_metadata", None), facts=metadata,
    )  # fmt: skip
    content.check(kind)
    size = content.write(path, kind, _nobody)
    return Saved(os.fsdecode(path), kind, len(stored), size, shared)


def _nobody(count: int) -> None:
    """Nobody watches the progress."""


def _check(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise UsageError(f"tensor name {name!r}: names must be text")
        if tensor.is_meta:
            raise UsageError(f"{printable(name)} is on the meta device and has no values to save; load the model first")
    wrong = [key for key, value in metadata.items() if not isinstance(key, str) or not isinstance(value, str)]
    if wrong:
        raise UsageError(f"metadata {wrong[0]!r}: keys and values must be text")


def _without_duplicates(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors stored once each, and for every further name the first one of the same memory."""
    firsts: dict[Hashable, str] = {}
    stored: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in tensors.items():
        first = firsts.setdefault(_identity(tensor), name)
        if first == name:
            stored[name] = tensor
        else:
            shared[name] = first
    return stored, shared


def _identity(tensor: torch.Tensor) -> Hashable:
    if not tensor.numel():
        return id(tensor)
    try:
        return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
    except (RuntimeError, NotImplementedError):  # tensors without a storage of their own
        return id(tensor)
