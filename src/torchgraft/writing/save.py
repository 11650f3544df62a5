"""Saving tensors, or a model with its ties."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from torchgraft.core.errors import TorchgraftError, UsageError, WriteError, printable
from torchgraft.writing import safetensors
from torchgraft.writing.commit import whole_file

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    import torch
    from torch import nn

FORMATS = {
    ".safetensors": "safetensors",
    ".pt": "torch zip",
    ".pth": "torch zip",
    ".bin": "torch zip",
    ".ckpt": "torch zip",
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
    safetensors' own `save_model` does. Metadata goes into safetensors files only. The format follows the ending
    unless `file_format` names it. Extra memory: one tensor, and only where its values don't lie in order on the CPU.

    Raises:
        UsageError: a name, value or ending that can't be written.
        WriteError: the file could not be written; what stood at its place is intact.
    """
    kind = file_format or format_of(path)
    _check(tensors, metadata or {})
    stored, shared = _without_duplicates(tensors)
    with whole_file(path) as file:
        if kind == "safetensors":
            facts = _facts(metadata or {}, shared, stored)
            size = safetensors.write(file, stored, facts)
        elif kind == "torch zip":
            size = _write_torch(file, tensors)
        else:
            raise UsageError(f"file_format={kind!r}: use one of {', '.join(map(repr, sorted(set(FORMATS.values()))))}")
    return Saved(os.fsdecode(path), kind, len(stored), size, shared)


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
    import torch

    state = model.state_dict()
    other = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    kind = file_format or format_of(path)
    if other and kind == "safetensors":
        raise UsageError(f"{', '.join(map(printable, other[:4]))}: extra state that is no tensor; save as .pt")
    if other:
        with whole_file(path) as file:
            size = _write_torch(file, state)
        return Saved(os.fsdecode(path), kind, len(state) - len(other), size, {})
    return save(path, state, metadata, file_format=kind)


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


def _facts(metadata: Mapping[str, str], shared: Mapping[str, str], stored: Mapping[str, Any]) -> dict[str, str]:
    """Return the file's metadata. `format: pt` is what transformers asks of every file that it loads."""
    clash = sorted(set(metadata) & (set(shared) | set(stored)))
    if clash:
        raise UsageError(f"metadata key {clash[0]!r} is also the name of a tensor; rename it")
    return {"format": "pt", **metadata, **shared}


def _write_torch(file: BinaryIO, state: Mapping[str, Any]) -> int:
    """Write with torch.save. Views into larger memory are copied, so that only what they show is stored."""
    import torch

    compact = state if isinstance(state, OrderedDict) else OrderedDict(state)
    spread = {n: v.clone() for n, v in compact.items() if isinstance(v, torch.Tensor) and _is_part(v)}
    if spread:
        replaced = OrderedDict((n, spread.get(n, v)) for n, v in compact.items())
        replaced.__dict__.update(compact.__dict__)  # the state dict's versions of modules
        compact = replaced
    try:
        torch.save(compact, file)
    except (OSError, TorchgraftError):
        raise
    except RuntimeError as error:  # torch's zip writer hides the cause, such as a full disk
        cause = error.__context__ if isinstance(error.__context__, OSError) else None
        raise cause or WriteError(
            f"torch could not write the file: {error}; whatever stood there before is intact"
        ) from error
    return file.tell()


def _is_part(tensor: torch.Tensor) -> bool:
    try:
        return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
    except (RuntimeError, NotImplementedError):
        return False
