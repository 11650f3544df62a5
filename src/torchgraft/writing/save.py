"""Writing checkpoints: tensors, a model with its ties, or what another checkpoint holds."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import counted, listed
from torchgraft.core.layout import identity_of
from torchgraft.core.places import is_spread
from torchgraft.core.results.report import Saved
from torchgraft.core.system.progress import Ticks
from torchgraft.core.types import Tensor
from torchgraft.writing import dcp
from torchgraft.writing.content import DCP, SAFETENSORS, TORCH, Content
from torchgraft.writing.items import of_tensor
from torchgraft.writing.shards import ShardWriter, size_of, split

FORMATS = {
    ".safetensors": SAFETENSORS, ".pt": TORCH, ".pth": TORCH, ".bin": TORCH, ".ckpt": TORCH,
}  # fmt: skip


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the format that the ending of an output path asks for.

    Raises:
        UsageError: the ending says nothing.
    """
    ending = os.path.splitext(os.fsdecode(path))[1].lower()
    if ending not in FORMATS:
        raise UsageError(f"output {printable(os.fsdecode(path))}: use one of the endings {', '.join(FORMATS)}")
    return FORMATS[ending]


def save(
    path: str | os.PathLike[str],
    state: Mapping[str, object],
    metadata: Mapping[str, str] | None = None,
    *,
    file_format: str | None = None,
    shard_size: str | int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Saved:
    """Write a state dict, in its order, to `path`: the whole file or none. See torchgraft.save."""
    import torch

    metadata, kind = metadata or {}, file_format or format_of(path)
    spread = [name for name, value in state.items() if is_spread(value)]
    if spread:
        return _written_by_all(path, state, metadata, kind, spread)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    _check(tensors, metadata)
    stored, shared = _without_duplicates(tensors)
    content = Content(
        items=[of_tensor(name, tensor) for name, tensor in stored.items()],
        names=list(state),
        shared=shared,
        others={name: value for name, value in state.items() if name not in tensors},
        versions=getattr(state, "_metadata", None),
        facts=metadata,
    )
    return write(path, kind, content, shard_size=shard_size, progress=progress)


def _written_by_all(
    path: str | os.PathLike[str], state: Mapping[str, object], metadata: Mapping[str, str], kind: str, spread: list[str]
) -> Saved:
    if kind != DCP:
        said = f"{listed(spread, 3)}: several processes hold it together, and a {kind} file is written by one"
        raise UsageError(f"{said}; save with file_format='dcp' in all of them, and convert the folder")
    versions = getattr(state, "_metadata", None)
    facts = {**({"versions": {"": dict(versions)}} if versions else {}), **metadata}
    nbytes = dcp.write_spread(path, state, facts)
    return Saved(path=os.fsdecode(path), format=kind, tensors=len(state), nbytes=nbytes, files=dcp.measured(path)[1])


def write(
    path: str | os.PathLike[str],
    kind: str,
    content: Content,
    *,
    shard_size: str | int | None = None,
    run: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Saved:
    """Write `content` to one file, or to shards that bear the mark of `run`.

    `progress` is called with bytes done and in all.
    """
    tick = Ticks(progress, content.nbytes).tick
    text = os.fsdecode(path)
    made = Saved(path=text, format=kind, tensors=len(content.items), nbytes=0, shared=content.shared, files=(text,))
    if kind == DCP:
        content.check(kind)
        nbytes, files = dcp.write(path, content, tick, None if shard_size is None else size_of(shard_size))
        copied = (f"a distributed checkpoint can't tie names: {listed(list(content.shared), 4)} got copies",)
        return replace(made, nbytes=nbytes, files=files, shared={}, notes=copied if content.shared else ())
    if shard_size is None:
        content.check(kind)
        return replace(made, nbytes=content.write(path, kind, tick))
    parts = split(content, kind, size_of(shard_size))
    writer = ShardWriter(path=text, kind=kind, run=run or secrets.token_hex(12), goes_on=bool(run), tick=tick)
    done = writer.write(parts)
    notes = (
        (f"kept {counted(done.kept, 'shard')} that an earlier run of this conversion wrote", *done.notes)
        if done.kept
        else done.notes
    )
    return replace(made, path=done.index, format=f"{kind} shards", nbytes=done.nbytes, files=done.files, notes=notes)


def _check(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise UsageError(f"tensor name {name!r}: names must be text")
        if tensor.is_meta:
            raise UsageError(f"{printable(name)} is on the meta device and has no values to save; load the model first")
    wrong = [key for key, value in metadata.items() if not isinstance(key, str) or not isinstance(value, str)]
    if wrong:
        raise UsageError(f"metadata {wrong[0]!r}: keys and values must be text")


def _without_duplicates(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors stored once each, and for every further name the first one of the same memory."""
    firsts: dict[Hashable, str] = {}
    stored: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in tensors.items():
        first = firsts.setdefault(identity_of(tensor) or id(tensor), name)
        if first == name:
            stored[name] = tensor
        else:
            shared[name] = first
    return stored, shared
