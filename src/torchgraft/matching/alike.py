"""Both sides alike: the same names behind at most one prefix, and the same shapes. Then nothing has to be weighed.

Nor where a head has other rows on either side, and fits nothing else.

Here names are looked at all at once, and not leaf by leaf. What `match` would say of such sides is known beforehand: it has
one prefix rule that explains everything, so no slot and no tensor is left, names decide, and no search for other readings has
anything to look at. The same holds where one side has tensors beside all those of the other, which may stand behind a prefix
there: nothing is left that they could go to. Names that mean more than the tensor itself (weights made of several tensors,
rows that libraries fuse in several orders) are left to it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from os.path import commonprefix

from torchgraft.core.match import Alike, Leaf, Match
from torchgraft.core.names import ends, words
from torchgraft.core.specs import Shape, Slot, TensorSpec
from torchgraft.matching.completing.shared import is_own_kind
from torchgraft.matching.names.chunks import unchunked
from torchgraft.matching.names.lists import is_numbered, may_count_otherwise
from torchgraft.matching.names.naming import IDENTITY, Prefix, reason_of
from torchgraft.matching.names.sections import in_part
from torchgraft.matching.names.spelling import unfolded
from torchgraft.matching.names.undotted import respelled, restored
from torchgraft.matching.parts.forms import as_matrices, may_take_part
from torchgraft.matching.parts.leaves import TURNED, source_leaves, target_leaves
from torchgraft.matching.parts.resized import only_rows_differ
from torchgraft.matching.tables.dialect import VARIANCES
from torchgraft.matching.tables.packing import FUSED, only_packing
from torchgraft.matching.tables.rotary import paired_alike

# Of so few tensors a prefix explains too little: `naming_of` asks what the names say.
FEW = 3


def alike(specs: Mapping[str, TensorSpec], slots: Iterable[Slot]) -> Alike | None:
    """Return which tensor of the file each slot has the name and the shape of; None where a single one needs a look.

    One of both sides may have more than the other, under other names; and what they share may stand behind a prefix there.
    """
    held = [slot for slot in slots if slot.persistent]
    names = [slot.spec.name for slot in held]
    rule = _rule(specs, names)
    if rule is None:
        return _one_within_the_other(specs, held)
    old, new = rule
    keys = [old + name[len(new) :] for name in names] if old or new else names
    shapes = [specs[key].shape for key in keys], [slot.spec.shape for slot in held]
    unlike = _of_other_rows(specs, dict(zip(keys, held, strict=True)), shapes) if shapes[0] != shapes[1] else ()
    if unlike is None:
        return None
    if rule != IDENTITY and (len(held) <= FEW or any(slot.aliases for slot in held)):
        return None  # a prefix may lead to another of a tensor's names as well
    longer, shorter = (names, keys) if new else (keys, names)
    # the prefix is no name of their layer
    at_root = [name for name in shorter if "." not in name] if old or new else ()
    if len(at_root) == len(keys) or (rule != IDENTITY and as_matrices(specs)):
        return (
            None  # a last segment alone is no evidence for a prefix, nor a kernel's shape for what it means elsewhere
        )
    if _means_more((*longer, *at_root)) or (new and (restored(keys, names) or respelled(keys, names))):
        return None
    found = dict(zip(names, keys, strict=True))
    for _, leaf in unlike:
        del found[leaf.keys[0]]
    why = reason_of(rule)
    return Alike(keys=found, why=why, unlike=tuple(Match(target=b, source=a, why=why) for a, b in unlike))


def _of_other_rows(
    specs: Mapping[str, TensorSpec], by_key: Mapping[str, Slot], shapes: tuple[Sequence[Shape], Sequence[Shape]]
) -> Sequence[tuple[Leaf, Leaf]] | None:
    """Return the pairs that differ in their rows alone, and have no other place; None where a pair differs otherwise."""
    changed = {key: slot for key, slot in by_key.items() if specs[key].shape != slot.spec.shape}
    sources, _ = source_leaves({key: specs[key] for key in changed})
    targets = target_leaves(list(changed.values()))
    if not len(sources) == len(targets) == len(changed):
        return None
    owners = {unfolded(slot.spec.name).rpartition(".")[0] for key, slot in by_key.items() if key not in changed}
    pairs = list(zip(sources, targets, strict=True))
    return pairs if only_rows_differ(pairs, shapes, owners) else None


def _one_within_the_other(specs: Mapping[str, TensorSpec], held: Sequence[Slot]) -> Alike | None:
    """Return the tensors of equal names, but for a prefix, where one side has all of the other's, and the rest says nothing."""
    rule = _rule_within(specs, [slot.spec.name for slot in held])
    shown = {key: key for key in specs}
    if rule != IDENTITY:
        shown = {rule.applied(key) if rule.covers(key) else key: key for key in specs}
    extra = shown.keys() - {slot.spec.name for slot in held}
    unfilled = [slot for slot in held if slot.spec.name not in shown]
    both = [slot for slot in held if slot.spec.name in shown] if unfilled else held
    keys = {slot.spec.name: shown[slot.spec.name] for slot in both}
    if (extra and unfilled) or not both or any(specs[keys[slot.spec.name]].shape != slot.spec.shape for slot in both):
        return None
    more = extra or {slot.spec.name for slot in unfilled}
    names = [name for slot in held for name in slot.names]
    if _says_more(more, both) or _means_more((*specs, *names), more) or not paired_alike(specs, names):
        return None
    if rule != IDENTITY and _needs_no_prefix(specs, keys, held):
        return None
    if may_count_otherwise([slot.spec.name for slot in both], more):
        return None
    if _is_called_otherwise(specs, held, extra) if extra else _is_in_every_block(unfilled):
        return None
    return Alike(keys=keys, why=reason_of(rule))


def _rule_within(keys: Collection[str], names: Collection[str]) -> Prefix:
    """Return the one prefix behind which the side that has more has all names of the other, and none of them elsewhere.

    That is no prefix where there is no such one. Where there is as much again beside that, a second prefix could explain as much.
    """
    few, many = sorted((keys, names), key=len)
    wanted, longest = set(few), max(few, key=len, default="")
    found = [name[: -len(longest)] for name in many if name.endswith(f".{longest}")]
    if len(found) != 1 or len(many) >= 2 * len(few) or not wanted.isdisjoint(many):
        return IDENTITY
    prefix = found[0]
    inside = {prefix + name for name in few}
    elsewhere = (end for name in many if name not in inside for end in ends(name))
    if not inside.issubset(many) or any(end in wanted for end in elsewhere):
        return IDENTITY
    return Prefix(prefix, "") if few is names else Prefix("", prefix)


def _needs_no_prefix(specs: Mapping[str, TensorSpec], keys: Mapping[str, str], held: Sequence[Slot]) -> bool:
    """Whether the names leave it open that a prefix is all that differs, or may mean something else than behind it."""
    names = {slot.spec.name for slot in held}
    few = len(keys) <= FEW or not any("." in name and "." in key for name, key in keys.items())
    return bool(
        few
        or any(slot.aliases for slot in held)
        or as_matrices(specs)
        or restored(list(specs), names)
        or respelled(list(specs), names)
        or unchunked(list(specs), list(names))
    )


def _says_more(more: Iterable[str], both: Iterable[Slot]) -> bool:
    """Whether a name that one side has more may say how others are read: an expert, an average, a variance of a norm."""
    norms = {name.rpartition(".")[0] for name in more if name.endswith(VARIANCES)}
    if norms and not norms.isdisjoint(slot.owner for slot in both):
        return True
    return any("expert" in name or in_part(name, "ema") for name in more)


def _is_called_otherwise(specs: Mapping[str, TensorSpec], held: Sequence[Slot], extra: AbstractSet[str]) -> bool:
    """Whether a tensor that the file has more may be one of the model's by another name, or say how the others are stored."""
    names = {name for slot in held for name in (unfolded(slot.spec.name), *slot.aliases)}
    keys = list(specs)
    if not extra.isdisjoint(names) or any(TURNED.get(kind) for kind in {slot.kind for slot in held}):
        return True
    return bool(
        as_matrices(specs)
        or restored(keys, {slot.spec.name for slot in held} | names)
        or unchunked(keys, list(names))
        or respelled(keys, names)
    )


def _is_in_every_block(unfilled: Iterable[Slot]) -> bool:
    """Whether several blocks of the model lack a tensor of a kind of its own, which the file may have once for all of them."""
    own = [name for slot in unfilled if is_own_kind((name := unfolded(slot.spec.name)).rpartition(".")[2])]
    return sum(is_numbered(name) for name in own) > 1


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


def _means_more(names: Iterable[str], more: Iterable[str] = ()) -> bool:
    """Whether a name is one of a part of a weight, of rows that others fuse in another order, or spelled as TensorFlow does.

    Of those that one side has `more` it is asked, too, whether their rows can only be cut apart where the heads are known.
    """
    ends = {".".join(name.rsplit(".", 2)[-2:]) for name in names}  # a large model has few
    layers = {end.partition(".")[0] for end in ends}
    if any("/" in end or may_take_part(end) or _is_open(end, ends, layers) for end in ends):
        return True
    apart = {words(unfolded(name).rpartition(".")[0].rpartition(".")[2]) for name in more} & FUSED.keys()
    return any((found := only_packing(name, layers)) is None or found.groups == "heads" for name in apart)


def _is_open(end: str, ends: Container[str], layers: Container[str]) -> bool:
    """Whether a layer and its tensor are called so that the rows are open, or so that one of `ends` may be the same."""
    spelled = unfolded(end).rsplit(".", 2)[-2:]
    name = words(spelled[0])
    respelled = not end.endswith(".".join(spelled))
    if respelled and (name not in FUSED or "." not in end or ".".join(spelled) in ends):
        return True  # the bias of a single part, say
    return name in FUSED and only_packing(name, layers) is None
