"""A network of an opened checkpoint as the content of new files. What would be lost is said, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.facts import DIGESTS, OF_THE_FILE, OWN, digests_of, ties_of
from torchgraft.core.formatting import listed
from torchgraft.core.specs import Network, Source
from torchgraft.writing.content import DCP, TORCH, Content
from torchgraft.writing.items import Item, cast, of_source

CASTS = (DType.F16, DType.BF16, DType.F32, DType.F64)
_EXTRA = "_extra_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """The content, how many of its tensors are cast, and remarks on what it lacks or doesn't change.

    `underflowed` grows while the content is written: tensors that a cast made all zeros.
    """

    content: Content
    cast: int
    notes: tuple[str, ...]
    underflowed: list[str] = field(default_factory=list)

    def remarks(self) -> tuple[str, ...]:
        """Return all remarks, once everything is written."""
        gone = f"all values of {listed(sorted(self.underflowed), 3)} are too small for the new type, and became 0"
        return (*self.notes, *([gone] if self.underflowed else []))


def dtype_of(name: object) -> DType:
    """Return the type that values are to be cast to: a name, with or without `torch.`, or a torch.dtype.

    Raises:
        UsageError: it is none that values are cast to.
    """
    short = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
    text = str(name).removeprefix("torch.")
    found = next((kind for kind in CASTS if kind.label == short.get(text, text)), None)
    if found is None:
        raise UsageError(f"dtype {printable(text)!r}: use one of {', '.join(kind.label for kind in CASTS)}")
    return found


def uncovered(source: Source, chosen: Network) -> list[str]:
    """Return the paths of networks that hold tensors which `chosen` lacks."""
    return [n.path for n in source.networks if n is not chosen and not _covers(source, chosen, n)]


def _covers(source: Source, outer: Network, inner: Network) -> bool:
    """Whether every tensor of `inner` is one of `outer`, under its name from there."""
    above, path = (tuple(filter(None, n.path.split("/"))) for n in (outer, inner))
    if path[: len(above)] != above:
        return False
    prefix = "".join(f"{part}." for part in path[len(above) :])
    for name, spec in inner.specs.items():
        mine = outer.specs.get(prefix + name)
        if mine is None or (mine.shape, mine.dtype) != (spec.shape, spec.dtype):
            return False
        if source.position(outer.path, mine.name) != source.position(inner.path, name):
            return False
    return True


def content_of(source: Source, network: Network, kind: str, dtype: DType | None) -> Converted:
    """Return what a file of `kind` gets: the tensors of `network`, with real floating-point ones as `dtype`.

    Names of one memory stay tied, plain facts stay beside the tensors, state-dict versions stay. float8 tensors are
    never cast: they are mostly quantised, and their scales lie elsewhere.

    Raises:
        UsageError: extra state that only torch files hold.
    """
    facts, stated = dict(source.metadata), digests_of(source.metadata)
    stated_ties = {k: v for k, v in ties_of(facts).items() if v in network.specs and k not in network.specs}
    shared = {**(network.shared or {}), **stated_ties}
    items = [
        of_source(source, network.path, spec, stated.get(name, ""))
        for name, spec in network.specs.items()
        if name not in shared
    ]
    names = [*network.specs, *(name for name in shared if name not in network.specs)]
    to_cast = [item for item in items if dtype and _is_cast(item, dtype)]
    small = [i.name for i in items if dtype and i.spec.dtype.is_float and i.spec.dtype.itemsize == 1]
    underflowed: list[str] = []
    changed = {item.name: cast(item, dtype, underflowed.append) for item in to_cast if dtype}
    versions = facts.get("versions")
    mine = versions.get(network.path) if isinstance(versions, dict) else None
    others = _extra_state(facts, network, kind)
    taken = frozenset(names)
    gone = {"versions", DIGESTS, *OWN, *OF_THE_FILE, *shared}
    content = Content(
        items=[changed.get(item.name, item) for item in items],
        names=[*names, *others],
        shared=shared,
        others=others,
        versions=mine if isinstance(mine, dict) else None,
        facts={_free(k, taken): v for k, v in facts.items() if k not in gone},
    )
    return Converted(content=content, cast=len(changed), notes=tuple(_notes(facts, small)), underflowed=underflowed)


def run_name(source: Source, content: Content, *more: object) -> str:
    """Return what is the same for two conversions of the same unchanged files with the same wishes; empty in memory."""
    if not source.stamps:
        return ""
    tensors = [(item.name, str(item.spec.dtype), *item.spec.shape) for item in content.items]
    text = json.dumps([source.stamps, tensors, [str(one) for one in more]])
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _is_cast(item: Item, dtype: DType) -> bool:
    mine = item.spec.dtype
    return mine.is_float and mine.itemsize > 1 and mine is not dtype


def _extra_state(facts: dict[str, object], network: Network, kind: str) -> dict[str, object]:
    """Take the extra state of modules out of `facts`; torch files hold it in the state dict itself."""
    start = f"{network.path}/" if network.path else ""
    keys = [k for k in facts if k.startswith(start) and k.endswith(_EXTRA)]
    if keys and kind not in (TORCH, DCP):
        said = f"{listed(keys, 4)}: extra state that is no tensor, which a safetensors file can't hold"
        raise UsageError(f"{said}; convert to .pt")
    return {key.removeprefix(start): facts.pop(key) for key in keys}


def _free(key: str, names: frozenset[str]) -> str:
    """Return a fact's key, changed where a tensor has the same name: in safetensors metadata that means a tie."""
    return f"{key} (beside)" if key in names else key


def _notes(facts: Mapping[str, object], small: list[str]) -> list[str]:
    notes = []
    if small:
        notes.append(f"float8 tensors keep their type: {listed(small, 3)}")
    for key, what in (
        ("left_out", "too large, or no plain data, and left out"),
        ("foreign_classes", "objects of the file that only their own code could restore are left out"),
    ):
        found = facts.get(key)
        if isinstance(found, list) and found:
            notes.append(f"{what}: {listed([str(f) for f in found], 4)}")
    return notes
