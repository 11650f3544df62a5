"""Names of the file as the model spells them: letters, dots, wrappers, chunks of lists, and numbers that are written in another way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from torchgraft.core.names import words
from torchgraft.matching.names.chunks import unchunked
from torchgraft.matching.names.undotted import respelled, restored
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.dialect import ANYWHERE, WRAPPERS
from torchgraft.matching.tables.packing import FUSED

_JOINT = re.compile(r"_(?=[a-z])")
_FOLDED = ("_weight", "_bias")
# What all names of some libraries end with: the first output of an operation, and the value of a variable of Flax NNX.
_ENDS = (":0", ".value", ".raw_value")
_NUMBERED = "_._"  # before the numbers of a list in transformers' TensorFlow models: `layer_._0`
_UNDIVIDED = re.compile(
    r"(?:arg:|aux:)?(?P<stem>.+)_(?P<role>weight|bias|gamma|beta|(?:running|moving)_(?:mean|var))", re.DOTALL
)
_SINGLE = frozenset({("q",), ("k",), ("v",), ("o",)})


def as_spelled(keys: Sequence[str], names: set[str], slots: Iterable[str]) -> list[str]:
    """Return the keys, each as the model spells it where it means one of its `names`; `slots` are its names as stored.

    Each rule is asked about what the one before has made of the keys.
    """
    rules: tuple[Callable[[Sequence[str]], Mapping[str, str]], ...] = (
        lambda shown: unwrapped(shown, names),
        lambda shown: recased(shown, slots),
        lambda shown: restored(shown, _folded_as_in(shown, names)),
        lambda shown: unchunked(shown, list(names)),
        lambda shown: respelled(shown, names),
    )
    shown = list(keys)
    for rule in rules:
        meant = rule(shown)
        shown = [meant.get(name, name) for name in shown] if meant else shown
    return shown


def unwrapped(keys: Collection[str], names: Iterable[str]) -> dict[str, str]:
    """Return key -> the same without modules that torch put around others in the middle of it, or with those of the model.

    Wrappers around the whole are left to the prefixes.
    """
    if not any(wrapper in key for keys in (keys, names) for key in keys for wrapper in ANYWHERE):
        return {}
    ours = {_bare(name): name for name in names}
    bare = {key: _bare(key) for key in keys}
    read = {key: ours.get(plain, plain) for key, plain in bare.items()}
    taken = Counter(read.values())
    return {key: name for key, name in read.items() if name != key and taken[name] == 1}


def _bare(name: str) -> str:
    """Return a name without such modules behind its first segment of another kind."""
    parts = name.split(".")
    start = next((at for at, part in enumerate(parts) if part not in WRAPPERS), 0)
    return ".".join([*parts[:start], *(part for part in parts[start:] if part not in ANYWHERE)])


def _folded_as_in(keys: Iterable[str], names: set[str]) -> set[str]:
    """Return the names, those folded that are so in the keys: `attn.in_proj_weight` lacks no dot."""
    folded = {unfolded(key): key for key in keys if key.endswith(_FOLDED)}
    return {folded.get(name, name) for name in names} if folded else names


def recased(keys: Collection[str], names: Iterable[str]) -> dict[str, str]:
    """Return key -> the same with its segments as the model writes them, for those that differ in case and joints alone.

    What a tensor is to its layer is read from its last segment: a `BIAS` that isn't known as a bias may go anywhere of its
    size. Only segments with capital letters are read anew, and a joint before a number stays: `Dense_0` isn't `dense0`.
    """
    together = "\n".join(keys)
    if together == together.lower():
        return {}
    foreign = {segment for segment in _segments(keys) if segment != segment.lower()}
    ours = _segments(names)
    written: dict[str, list[str]] = {}
    for segment in ours:
        written.setdefault(_plain(segment), []).append(segment)
    meant = {segment: written.get(_plain(segment), []) for segment in foreign - ours}
    spelled = {segment: found[0] for segment, found in meant.items() if len(found) == 1}
    if not spelled:
        return {}
    read = {key: ".".join(spelled.get(segment, segment) for segment in key.split(".")) for key in keys}
    taken = Counter(read.values())
    return {key: name for key, name in read.items() if name != key and taken[name] == 1}


def _segments(names: Iterable[str]) -> set[str]:
    return {segment for name in names for segment in name.split(".")}


def _plain(segment: str) -> str:
    return _JOINT.sub("", segment.lower())


def as_dotted(shown: Sequence[str], names: Collection[str]) -> list[str]:
    """Return names of TensorFlow's spelling (`block1/conv/kernel:0`) with dots, and without the number of an output.

    Files of Keras have groups for slashes, and the number at the end all the same; the group of a layer holds one of the same
    name (`dense.dense.kernel:0`), which is read as the layer. All of that stays where the model's `names` have such a number,
    too, or where names would be the same without. Of Flax NNX is what else all names may end with.
    """
    for end in _ENDS:
        if not any(name.endswith(end) for name in shown) or any(name.endswith(end) for name in names):
            continue
        if end.startswith(".") and not all(name.endswith(end) for name in shown):
            continue
        plain = [name.removesuffix(end).replace(_NUMBERED, "_") for name in shown]
        shown = next(found for found in (_said_once(plain), plain, shown) if len(set(found)) == len(found))
    return _with_owners([name if name in names else _dotted(name) for name in shown], names)


def _with_owners(names: list[str], ours: Collection[str]) -> list[str]:
    """Return names of MXNet's spelling with a dot before what the tensor is to its layer: `stage1_batchnorm0.gamma`.

    Gluon and MXNet write no dots at all, and the latter which kind of tensor it is in front: `aux:bn0_moving_mean`. What is one
    of the model's names, `ours`, is none of these.
    """
    if any("." in name or name in ours for name in names) or not any(name.endswith("_gamma") for name in names):
        return names
    parts = [_UNDIVIDED.fullmatch(name) for name in names]
    out = [f"{found['stem']}.{found['role']}" if found else name for name, found in zip(names, parts, strict=True)]
    return out if len(set(out)) == len(out) else names


def _said_once(names: Sequence[str]) -> list[str]:
    """Return names without a second first segment that says the first again, where nothing else lies below the first."""
    inside: dict[str, set[str]] = {}
    split = [name.split(".", 2) for name in names]
    for first, *rest in split:
        inside.setdefault(first, set()).update(rest[:1])
    twice = {first for first, seconds in inside.items() if seconds == {first}}
    return [
        ".".join((first, *rest[1:])) if first in twice and len(rest) > 1 else name
        for name, (first, *rest) in zip(names, split, strict=True)
    ]


def _dotted(name: str) -> str:
    """Return a name with dots for slashes, where it has none, or all in front: `torch_params.dense/kernel` of Keras on torch."""
    module, dot, _ = name.partition("/")[0].rpartition(".")
    path = name[len(module + dot) :]
    if "/" not in path or "." in path:
        return name
    stem, _, output = path.rpartition(":")
    return module + dot + (stem if stem and output.isdecimal() else path).strip("/").replace("/", ".")


def unfolded(key: str) -> str:
    """Return `attn.in_proj_weight` as `attn.in_proj.weight`: what is a tensor of a module in most code."""
    if not key.endswith(_FOLDED):
        return key
    owner, dot, role = key.rpartition(".")
    for end in _FOLDED:
        if role.endswith(end):
            stem = role[: -len(end)]
            if words(stem) in FUSED or canonical(stem) in _SINGLE:
                return f"{owner}{dot}{stem}.{end[1:]}"
    return key
