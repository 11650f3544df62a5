"""Lists of layers that are cut into chunks on one side: `blocks.1.6` is the layer `blocks.6`, in the second chunk.

Layers keep their number within the whole list (DINOv2's `block_chunks`, whose chunks are padded in front for that).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

from torchgraft.core.names import ends

_TWO_NUMBERS = re.compile(r"(?=(?:^|\.)(\d+)\.(\d+)\.)")
_ANY_TWO = re.compile(r"\.\d+\.\d+\.")
_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")

Chunks = dict[int, int]  # layer number -> number of its chunk


def unchunked(keys: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return key -> the same with its layer list whole, or in chunks, as it is in the model.

    Keys are left out whose list is the same on both sides, or that the model has under no such name; and of modules of which
    it has a tensor under the very name.
    """
    theirs, ours = _lists(keys), _lists(names)
    if not theirs and not ours:
        return {}
    known = {end for name in names for end in ends(name)}
    cuts = {head.rpartition(".")[2]: chunks for head, chunks in ours.items()}
    roles: defaultdict[str, list[str]] = defaultdict(list)
    for key in keys:
        owner, _, role = key.rpartition(".")
        roles[owner].append(role)
    found: dict[str, str] = {}
    for key in keys:
        whole = _joined(key, theirs)
        cut = [form for _, joined in [(0, key), *whole] for form in _cut(joined, cuts)]
        for at, other in (*whole, *cut):
            owner = key.rpartition(".")[0]
            if other[at:] in known and not any(f"{owner}.{role}"[at:] in known for role in roles[owner]):
                found[key] = other
    return found | _beside(found, keys, set(names))


def _beside(found: Mapping[str, str], keys: Iterable[str], names: Container[str]) -> dict[str, str]:
    """Return the other keys of the modules that were renamed: the tensors of one module stay together."""
    owners = {key.rpartition(".")[0]: name.rpartition(".")[0] for key, name in found.items()}
    here = set(keys) if found else set()
    out: dict[str, str] = {}
    for key in keys if found else ():
        owner, _, role = key.rpartition(".")
        name = f"{owners.get(owner, owner)}.{role}"
        if owner in owners and key not in found and name not in here and not any(end in names for end in ends(key)):
            out[key] = name
    return out


def _lists(keys: Sequence[str]) -> dict[str, Chunks]:
    """Return the path of each list in chunks, and its layers."""
    if not _ANY_TWO.search("\n".join(keys)):  # of most models no list has a head and two numbers
        return {}
    seen: dict[str, dict[int, set[int]]] = {}
    for key in keys:
        for gap in _TWO_NUMBERS.finditer(key):
            chunk, layer = gap.groups()
            seen.setdefault(key[: gap.start()], {}).setdefault(int(layer), set()).add(int(chunk))
    return {
        head: {layer: min(chunks) for layer, chunks in layers.items()}
        for head, layers in seen.items() if head and _goes_on(layers)
    }  # fmt: skip


def _goes_on(layers: Mapping[int, set[int]]) -> bool:
    """Whether the layers of one chunk are numbered on in the next, each in one chunk only."""
    chunks = [min(layers[layer]) for layer in sorted(layers)]
    alone = len(layers) > 1 and all(len(found) == 1 for found in layers.values())
    return alone and sorted(layers) == list(range(len(layers))) and chunks == sorted(chunks) and chunks[0] == 0


def _joined(key: str, lists: Mapping[str, Chunks]) -> list[tuple[int, str]]:
    """Return where the name of a list in chunks begins in a key, and the key without the chunk."""
    gaps = [gap for gap in _TWO_NUMBERS.finditer(key) if key[: gap.start()] in lists] if lists else []
    return [(key.rfind(".", 0, gap.start()) + 1, key[: gap.start()] + key[gap.end(1) :]) for gap in gaps]


def _cut(key: str, cuts: Mapping[str, Chunks]) -> list[tuple[int, str]]:
    """Return where the name of a list begins in a key that is in chunks in the model, and the key with its chunk."""
    out = []
    for gap in _NUMBER.finditer(key) if cuts else ():
        at = key.rfind(".", 0, gap.start()) + 1
        chunk = cuts.get(key[at : gap.start()], {}).get(int(gap[1]))
        if chunk is not None:
            out.append((at, f"{key[: gap.start()]}.{chunk}{key[gap.start() :]}"))
    return out
