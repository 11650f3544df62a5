"""Paths: a file, an index of shards, a folder that holds one checkpoint, or the newest of those that a trainer keeps in one."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress

from torchgraft.core.errors import CheckpointError, CorruptCheckpointError, UnsupportedCheckpointError, printable
from torchgraft.core.formatting import listed
from torchgraft.core.system.fast_objects import collector_paused
from torchgraft.reading.contents import ENDINGS, Contents
from torchgraft.reading.dcp_safetensors import box_files, expect_whole, read_boxes
from torchgraft.reading.disk.files import TRIES, CheckpointFile, shown, unreadable
from torchgraft.reading.disk.paths import OpenFiles, open_inside
from torchgraft.reading.sniff import is_safetensors, read_file

_SINGLE = (
    "model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin",
    "adapter_model.safetensors", "adapter_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
    "consolidated.safetensors", "consolidated.00.pth", "model.pth", "model.pt", "pytorch_model.pt", "checkpoint.pth",
    "checkpoint.pt", "model_state_dict.pt", "flax_model.msgpack", "model.onnx",
)  # fmt: skip
# What lies beside tensors, and what the facts call it. Beside a file, only the configuration of its own kind counts.
_CONFIGS = {"config.json": "config", "adapter_config.json": "adapter_config"}
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_INDEXES = (
    "model.safetensors.index.json", "pytorch_model.bin.index.json", "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin.index.json", "flax_model.msgpack.index.json",
)  # fmt: skip
# What the trainers of transformers, accelerate and torchtune leave beside the weights.
_BESIDE = re.compile(
    r"(?:optimizer|scheduler|scaler|training_args|rng_state\w*|random_states_\d+|sampler|recipe_state)\.(?:pt|pth|bin|pkl)"
)
# Files that name the newest checkpoint beside them, and what its folder is called: DeepSpeed's, and that of Megatron-LM, which
# holds a number of iterations or the word `release`.
_POINTERS = {"latest": "", "latest_checkpointed_iteration.txt": "iter_"}
# What other libraries leave in their folders.
_FOREIGN = {
    "saved_model.pb": "a SavedModel of TensorFlow", "checkpoint": "checkpoints of TensorFlow",
    "_CHECKPOINT_METADATA": "a checkpoint of Orbax (JAX)", "_METADATA": "a checkpoint of Orbax (JAX)",
    "manifest.ocdbt": "a checkpoint of Orbax (JAX)",
}  # fmt: skip
_NOT_READ = "which is not read: write its weights into an .npz or HDF5 file with that library"
_OF_TENSORFLOW = re.compile(r"\.(?:index|data-\d{5}-of-\d{5})$")
_UNPACKED = frozenset({"data.pkl", "version"})
_MOST_BYTES = 200
_MOST_MANIFEST = 1 << 20
# Files that name the parts of a model, each with weights in a folder of its own: sentence-transformers' and diffusers'.
_MANIFESTS = ("modules.json", "model_index.json")
# What DeepSpeed calls the models' files of stage 3, in which every process has a part of each tensor.
_ZERO_SHARE = re.compile(r"(?:bf16_)?zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt")
_MOST_FOLDERS = 200
_MOST_NAMED = 6


def read_path(path: str) -> tuple[Contents, list[CheckpointFile]]:
    """Return the contents at `path` and the files that must stay open for it.

    `path` itself may be a link to anywhere: the user named it. What is found in a folder may not lead out of it.

    Files that a writer replaced while they were opened one by one are opened again.
    """
    with collector_paused():
        for _ in range(TRIES - 1):
            opened = OpenFiles()
            try:
                return _read(path, opened)
            except CheckpointError:
                if not any(file.is_replaced() for file in opened.files):
                    raise
        return _read(path, OpenFiles())


def read_handle(handle: object) -> tuple[Contents, list[CheckpointFile]]:
    """Return the contents of a file object, and the file as which it is read.

    Raises:
        UsageError: it is closed, gives texts, or can't be read from any place on.
        CheckpointError: it is broken, or no checkpoint; or a part of it lies in another file.
    """
    from torchgraft.reading.disk.handles import GivenFile

    with collector_paused(), OpenFiles() as opened:
        contents = _one(GivenFile(handle), opened)
        opened.pop_all()
        return contents, opened.files


def _read(path: str, opened: OpenFiles) -> tuple[Contents, list[CheckpointFile]]:
    with opened:
        try:
            contents = _folder(path, opened) if os.path.isdir(path) else _file(path, opened)
        except CheckpointError:  # of a missing file, which is an error of the system's kind, too
            raise
        except OSError as error:  # a folder that can't be listed
            raise unreadable(path, error) from error
        beside = os.path.join(os.path.dirname(path), "adapter_config.json")
        if os.path.basename(path) in _ADAPTERS and os.path.isfile(beside):
            _note_config(beside, contents)
        opened.pop_all()
        return contents, opened.files


def _file(path: str, opened: OpenFiles) -> Contents:
    _expect_no_part(path)
    if os.path.basename(path) == ".metadata":
        from torchgraft.reading.dcp import read_dcp

        return read_dcp(os.path.dirname(path) or ".", opened)
    contents = _one(CheckpointFile(path), opened)
    if part := said_part(path):
        contents.warnings.append(f"{part}: name the folder of all")
    return contents


def _expect_no_part(path: str) -> None:
    """Refuse what is but a part of a checkpoint by its name: of TensorFlow's, or a file of a distributed one."""
    stem = _OF_TENSORFLOW.sub("", path)
    if os.path.isfile(f"{stem}.index") and (stem != path or not os.path.lexists(path)):
        raise UnsupportedCheckpointError(f"{shown(path)}: {_FOREIGN['checkpoint']}, {_NOT_READ}")
    if path.endswith(".distcp"):
        raise UnsupportedCheckpointError(f"{shown(path)}: one file of a distributed checkpoint: name its folder")


def said_part(path: str) -> str:
    """Return that a file is one of several that belong together, by its name and those beside it; "" where it is whole."""
    from torchgraft.reading.sharded import shards_told

    if ranks := _ranks_beside(path) or _ranks_beside(os.path.dirname(path)):
        return f"the file is one of {ranks} ranks, which hold parts of tensors"
    shards = shards_told(os.path.basename(path))
    return f"the file is one of {shards} shards, each of which holds some of the tensors" if shards > 1 else ""


def _ranks_beside(path: str) -> int:
    """Return how many tensor-parallel ranks there are, by its name and those beside it, where a file or folder is one; else 0."""
    from torchgraft.reading.sharded import rank_names

    if not rank_names([os.path.basename(path), "mp_rank_00"])[1:]:
        return 0
    with suppress(OSError):
        names = rank_names(os.listdir(os.path.dirname(path) or "."))
        return len(names) * (len(names) > 1)
    return 0


def _one(file: CheckpointFile, opened: OpenFiles) -> Contents:
    opened.keep(file)
    head = file.window().read(0, min(file.size, 9))
    if (head[:1] in (b"{", b"[") and not is_safetensors(head)) or file.path.endswith(".index.json"):
        from torchgraft.reading.sharded import read_index

        return read_index(file, opened)
    contents = read_file(file.window())
    expect_whole(contents, str(file))
    return contents


def _folder(path: str, opened: OpenFiles) -> Contents:
    """Return the contents of a folder: one checkpoint, or the parts of a model that a file in it names."""
    names = sorted(os.listdir(path))
    if _UNPACKED.issubset(names):
        raise UnsupportedCheckpointError(
            f"{shown(path)}: the records of an archive of torch.save, unpacked: pack this folder again (zip -r model.pt FOLDER)"
        )
    parts = _parts_in(path, names)
    return _in_parts(path, parts, opened) if parts else _one_folder(path, opened)


def _parts_in(path: str, names: Sequence[str]) -> dict[str, str]:
    """Return the parts of a model that lie in folders of this one, each with its folder, "" for this one itself.

    Nothing where no file says so. What it names without weights of its own, such as a tokenizer, is no part.
    """
    from torchgraft.reading.containers.strict_json import loads

    manifest = next((name for name in _MANIFESTS if name in names), None)
    if manifest is None:
        return {}
    try:
        with closing(open_inside(path, manifest)) as file:
            said = loads(file.window().read(0, min(file.size, _MOST_MANIFEST)), file.path)
    except CheckpointError:
        return {}
    if isinstance(said, dict):
        stated: list[tuple[object, object]] = [(key, key) for key, value in said.items() if isinstance(value, list)]
    else:
        listed = said if isinstance(said, list) else ()
        stated = [(one.get("name"), one.get("path")) for one in listed if isinstance(one, dict)]
    inside = {"", *(name for name in names if _is_folder(os.path.join(path, name)))}
    found: dict[str, str] = {}
    for part, folder in stated:
        if not isinstance(part, str) or not isinstance(folder, str) or folder not in inside:
            continue
        if _has_one(os.path.join(path, folder)):
            found[part] = folder
    return found if any(found.values()) else {}


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _in_parts(path: str, parts: Mapping[str, str], opened: OpenFiles) -> Contents:
    """Return the parts of a model as networks of one tree, under the names that the whole model gives them."""
    from torchgraft.reading.finding.catalog import catalogue

    out = Contents(format="", tree={})
    formats: dict[str, None] = {}
    for part, folder in parts.items():
        inner = os.path.join(path, folder) if folder else path
        contents = _one_folder(inner, opened, known=set(parts.values()))
        found = catalogue(contents, shown(inner))
        weights = [network for network in found.networks if network.role == "model"] or list(found.networks)
        out.tree[part] = found.tensors[weights[0].path]
        out.warnings += contents.warnings
        out.metadata |= {f"{part}/{key}" if folder else key: value for key, value in found.metadata.items()}
        formats[contents.format] = None
    out.format = f"{' and '.join(formats)} in {len(parts)} folders"
    return out


def _one_folder(path: str, opened: OpenFiles, *, named: bool = False, known: Collection[str] = frozenset()) -> Contents:
    """Return the one checkpoint in a folder; one that is `named` as the newest of several can't name another in its turn.

    `known` are folders in it that are read besides.
    """
    from torchgraft.reading.sharded import rank_names

    names = [name for name in sorted(os.listdir(path)) if name not in known]
    contents = _read_among(names, path, opened, named=named)
    if not rank_names(names) and not _pointer_in(path, names) and (below := _checkpoints_below(path, names)):
        contents.warnings.append(f"checkpoints of their own in this folder are not read: {below}")
    for name in set(_CONFIGS) & set(names):
        _note_config(os.path.join(path, name), contents)
    return contents


def _read_among(names: list[str], path: str, opened: OpenFiles, *, named: bool) -> Contents:
    """Return the one checkpoint among `names` in a folder; what says most of how its files belong together comes first."""
    from torchgraft.reading.sharded import rank_names, read_ranks, read_shards, shard_names

    if index := [n for n in _INDEXES if n in names] or [n for n in names if n.endswith(".index.json")]:
        return _one(open_inside(path, index[0]), opened)
    if ".metadata" in names or any(n.endswith(".distcp") for n in names) or ".metadata.tmp" in names:
        from torchgraft.reading.dcp import read_dcp

        return read_dcp(path, opened)
    ranks = rank_names(names)
    single = next((n for n in _SINGLE if n in names), None)
    others = [n for n in _candidates(names) if os.path.isfile(os.path.join(path, n))]
    if single is not None and single not in ranks:
        contents = _one(open_inside(path, single), opened)
        contents.warnings += _numbered_beside(single, others)
        return contents
    if boxes := box_files(names):
        return read_boxes(path, boxes, opened)
    if ranks:
        return read_ranks(path, ranks, opened)
    if shards := shard_names(names):
        return read_shards(path, shards, opened)
    if len(others) == 1 and not _pointer_in(path, names):
        return _one(open_inside(path, others[0]), opened)
    return _newest(path, names, opened, named=named)


def _numbered_beside(name: str, others: Iterable[str]) -> list[str]:
    """Say which files are numbered like one that is read: other models, which accelerate keeps beside the first."""
    stem, ending = os.path.splitext(name)
    more = [other for other in others if re.fullmatch(rf"{re.escape(stem)}_\d+{re.escape(ending)}", other)]
    return [f"{name} is read, and not {listed(more)}"] if more else []


def _newest(path: str, names: list[str], opened: OpenFiles, *, named: bool) -> Contents:
    """Return the newest checkpoint of a folder in which a trainer keeps several.

    Raises:
        UnsupportedCheckpointError: nothing in the folder says which it is, or no file in it holds whole tensors.
    """
    if pointer := _pointer_in(path, names):
        if named:
            raise UnsupportedCheckpointError(
                f"{shown(path)}: it is named as the newest checkpoint, and {pointer!r} in it names another folder; give that "
                "one's path"
            )
        inner = _pointed_at(path, pointer, names)
        contents = _one_folder(os.path.join(path, inner), opened, named=True)
        contents.warnings.append(f"{pointer!r} in the folder names {printable(inner)!r}, which is read")
        return contents
    if count := sum(_ZERO_SHARE.fullmatch(name) is not None for name in names):
        raise UnsupportedCheckpointError(
            f"{shown(path)}: shares of {count} process{'es' * (count > 1)} that trained with DeepSpeed's ZeRO stage 3, each "
            "with a part of every tensor: put them together with the zero_to_fp32.py that DeepSpeed leaves beside them, and "
            "load what it writes"
        )
    others = _candidates(names)
    if others:
        raise UnsupportedCheckpointError(
            f"{shown(path)}: several files ({', '.join(map(printable, others[:4]))}): name one of them"
        )
    if kind := next((_FOREIGN[name] for name in names if name in _FOREIGN), ""):
        raise UnsupportedCheckpointError(f"{shown(path)}: {kind}, {_NOT_READ}")
    below = _checkpoints_below(path, names)
    name = f"; there is one in {below}: name {'one' if ', ' in below else 'it'}" if below else ""
    raise UnsupportedCheckpointError(f"{shown(path)}: no checkpoint in this folder{name}")


def _candidates(names: Iterable[str]) -> list[str]:
    """Return the names of what may be a checkpoint in one file."""
    return [name for name in names if name.endswith(ENDINGS) and not _BESIDE.fullmatch(name)]


def _note_config(path: str, contents: Contents) -> None:
    """Put the configuration in the file at `path` among the facts; one that can't be read is said, and left out."""
    from torchgraft.reading.containers.strict_json import loads

    name = os.path.basename(path)
    try:
        with closing(open_inside(os.path.dirname(path) or ".", name)) as config:
            read = loads(config.window().read(0, min(config.size, 4 << 20)), config.path)
        contents.metadata.setdefault(_CONFIGS[name], read)
    except CheckpointError as error:
        contents.warnings.append(f"{name} was left out: {error}")


def _pointer_in(folder: str, names: Iterable[str]) -> str:
    """Return the file of a folder that names the newest of the checkpoints in it; "" where there is none."""
    return next((name for name in _POINTERS if name in names and os.path.isfile(os.path.join(folder, name))), "")


def _pointed_at(folder: str, pointer: str, names: Iterable[str]) -> str:
    """Return the folder that the file `pointer` names, which must be one of `names`."""
    with closing(open_inside(folder, pointer)) as file:
        said = file.window().read(0, min(file.size, _MOST_BYTES)).decode("utf-8", "replace").strip()
    inner = f"{_POINTERS[pointer]}{int(said):07}" if _POINTERS[pointer] and said.isdecimal() else said
    path = os.path.join(folder, inner)
    if inner not in names or not os.path.isdir(path) or os.path.islink(path):
        raise CorruptCheckpointError(
            f"{shown(folder)}: {pointer} names {printable(inner)!r}, and no such folder is in it"
        )
    return inner


def _checkpoints_below(folder: str, names: Iterable[str]) -> str:
    """Return which folders in a folder have a checkpoint, in words; nothing for none."""
    inner = [name for name in names if os.path.isdir(os.path.join(folder, name))][:_MOST_FOLDERS]
    found = [name for name in inner if _has_one(os.path.join(folder, name))]
    more = f" and {len(found) - _MOST_NAMED} more" * (len(found) > _MOST_NAMED)
    return ", ".join(printable(name) for name in found[:_MOST_NAMED]) + more


def _has_one(folder: str) -> bool:
    """Whether the files of a folder look like those of a checkpoint."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(name == ".metadata" or name in _INDEXES for name in names) or bool(_candidates(names))
