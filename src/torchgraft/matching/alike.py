"""Both sides alike: the same names behind at most one prefix, and the same shapes. Then nothing has to be weighed.

Here names are looked at all at once, and not leaf by leaf. What `match` would say of such sides is known beforehand: it has
one prefix rule that explains everything, so no slot and no tensor is left, names decide, and no search for other readings has
anything to look at. Names that mean more than the tensor itself (weights made of several tensors, rows that libraries fuse in
several orders) are left to it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from os.path import commonprefix

from torchgraft.core.match import Alike
from torchgraft.core.names import words
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.matching.names.naming import IDENTITY, Prefix, reason_of
from torchgraft.matching.names.spelling import unfolded
from torchgraft.matching.names.undotted import respelled, restored
from torchgraft.matching.parts.forms import as_matrices, may_take_part
from torchgraft.matching.tables.packing import FUSED, only_packing

# Of so few tensors a prefix explains too little: `naming_of` asks what the names say.
FEW = 3


def alike(specs: Mapping[str, TensorSpec], slots: Iterable[Slot]) -> Alike | None:
    """Return which tensor of the file each slot has the name and the shape of; None where a single one needs a look."""
    held = [slot for slot in slots if slot.persistent]
    names = [slot.spec.name for slot in held]
    rule = _rule(specs, names)
    if rule is None:
        return None
    old, new = rule
    keys = [old + name[len(new) :] for name in names] if old or new else names
    if any(specs[key].shape != slot.spec.shape for key, slot in zip(keys, held, strict=True)):
        return None
    if rule != IDENTITY and (len(held) <= FEW or any(slot.aliases for slot in held)):
        return None  # a prefix may lead to another of a tensor's names as well
    longer, shorter = (names, keys) if new else (keys, names)
    # the prefix is no name of their layer
    at_root = [name for name in shorter if "." not in name] if old or new else ()
    # a last segment alone is no evidence for a prefix, nor a kernel's shape for what it means elsewhere
    if len(at_root) == len(keys) or (rule != IDENTITY and as_matrices(specs)):
        return None
    if _means_more((*longer, *at_root)) or (new and (restored(keys, names) or respelled(keys, names))):
        return None
    return Alike(keys=dict(zip(names, keys, strict=True)), why=reason_of(rule))


def _rule(keys: Collection[str], names: Sequence[str]) -> Prefix | None:
    """Return the prefix to take off all keys, or to put before them, for all of the names; None where there is none."""
    wanted = set(names)
    if not names or not len(keys) == len(names) == len(wanted):
        return None
    if wanted.issuperset(keys):
        return IDENTITY
    old, new = _without_common_end(_around(keys), _around(names))
    if (old and new) or (len(old) - len(new)) * len(names) != sum(map(len, keys)) - sum(map(len, names)):
        return None
    found = wanted.issuperset([new + key[len(old) :] for key in keys])
    return Prefix(old, new) if found else None


def _around(names: Collection[str]) -> str:
    """Return the path that all names have in front, its dot included."""
    shared = commonprefix([min(names), max(names)])  # noqa: RUF071  # cut at a dot in a moment
    return shared[: shared.rfind(".") + 1]


def _without_common_end(old: str, new: str) -> tuple[str, str]:
    """Return both paths without the segments that both end with: what is inside of a prefix is none of it."""
    ours, theirs = old.split("."), new.split(".")
    while len(ours) > 1 and len(theirs) > 1 and ours[-2] == theirs[-2]:
        del ours[-2], theirs[-2]
    return ".".join(ours), ".".join(theirs)


def _means_more(names: Iterable[str]) -> bool:
    """Whether a name is one of a part of a weight, of rows that others fuse in another order, or spelled as TensorFlow does."""
    ends = {".".join(name.rsplit(".", 2)[-2:]) for name in names}  # a large model has few
    layers = {end.partition(".")[0] for end in ends}
    return any("/" in end or may_take_part(end) or _is_open(end, ends, layers) for end in ends)


def _is_open(end: str, ends: Container[str], layers: Container[str]) -> bool:
    """Whether a layer and its tensor are called so that the rows are open, or so that one of `ends` may be the same."""
    spelled = unfolded(end).rsplit(".", 2)[-2:]
    name = words(spelled[0])
    respelled = not end.endswith(".".join(spelled))
    if respelled and (name not in FUSED or "." not in end or ".".join(spelled) in ends):
        return True  # the bias of a single part, say
    return name in FUSED and only_packing(name, layers) is None
