"""What stays fresh and what stays unused, and why; with "did you mean" where the two might belong together."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from torchgraft.core.grounds import Ground
from torchgraft.core.names import ends, is_derived, without_common_end
from torchgraft.core.plan import Action, Step, Unused, Why
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.ops import Constant

STATISTICS = ("running_mean", "running_var")
LONGEST = 1000  # comparing takes the square of the length, and a file may hold a name of a megabyte


def fresh_step(slot: Slot, is_fresh: Callable[[str], bool], is_zero: Callable[[str], bool]) -> Step:
    """Return the step of a slot that nothing in the checkpoint feeds."""
    if any(is_zero(name) for name in slot.names):
        constant = Constant(slot.spec.shape, slot.spec.dtype.label, 0.0)
        return Step(slot=slot, ops=(constant,), why=Why(Ground.USER_RULE, "starts at zero, as you said"))
    if any(is_fresh(name) for name in slot.names):
        return Step(slot=slot, why=Why(Ground.USER_RULE, "kept fresh, as you said"))
    if not slot.persistent:
        return Step(slot=slot, why=Why(Ground.DERIVED, "a buffer that no file holds"), quiet=True)
    text = "nothing in the checkpoint corresponds to it"
    return Step(slot=slot, why=Why(Ground.NO_COUNTERPART, text), quiet=is_derived(slot.spec))


@dataclass(frozen=True, slots=True)
class SecondNames:
    """Names of the file for what another has: `shared` maps those of one tensor to its first, `repeats` those of equal values."""

    shared: Mapping[str, str] = field(default_factory=dict)
    repeats: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.shared or self.repeats)

    def first(self, key: str) -> str:
        """Return the first name of what a key holds."""
        return self.repeats.get(key) or self.shared.get(key, key)

    def told(self, key: str, used: str) -> str:
        """Return why a key isn't needed beside another one that is used."""
        one = self.shared.get(key, key) == self.shared.get(used, used)
        return f"another name of {used}: one tensor in the file" if one else f"holds the same values as {used}"


_NO_PLACE = Why(Ground.NO_COUNTERPART, "the model has no place for it")


def unused_sources(
    steps: Sequence[Step],
    specs: Mapping[str, TensorSpec],
    rejected: Mapping[str, str],
    derived: Mapping[str, str],
    network: str,
    second: SecondNames,
) -> tuple[Unused, ...]:
    """Return the fate of every source tensor that feeds no slot.

    `derived` are those that are computed from others, `second` tells which names hold what another one has.
    """
    used = {feed.key for step in steps for feed in step.feeds}
    if used.issuperset(specs):
        return ()
    fresh = [s for s in steps if s.action is Action.FRESH and s.why.rule == Ground.NO_COUNTERPART and not s.quiet]
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for step in fresh:
        by_shape.setdefault(_class(step.slot.spec), []).append(step.slot.name)
    aliases = {name: step for step in steps if step.slot.aliases for name in _names_in_file(step)}
    taken = {name for step in steps for name in step.slot.names if step.feeds}
    unfit = [step for step in steps if step.slot.aliases and step.why.rule == Ground.SHAPE and not step.feeds]
    rejected = {name: step.why.text for step in unfit for name in step.slot.names} | dict(rejected)
    kept = {name for step in steps if step.why.rule == Ground.USER_RULE and not step.feeds for name in step.slot.names}
    fed = {second.first(key): key for key in used} if second else {}
    out: list[Unused] = []
    for key, spec in specs.items():
        if key in used:
            continue
        again = fed.get(second.first(key)) if fed else None
        quiet = is_derived(spec) or key in derived or key in aliases or again is not None
        why = Why(Ground.SHAPE, rejected[key]) if key in rejected else _NO_PLACE
        same_as = ""
        if key in derived:
            why = Why(Ground.DERIVED, f"computed from {derived[key]}")
        elif key in aliases:
            same_as = aliases[key].feeds[0].key
            why = Why(Ground.ALIAS, f"another name of {aliases[key].slot.name}, fed by {same_as}")
        elif again is not None:
            same_as = again
            why = Why(Ground.ECHO, second.told(key, again))
        elif key in taken and key not in rejected:
            why = Why(Ground.NO_COUNTERPART, "another tensor fills the place of this name")
        elif key not in rejected and kept and any(end in kept for end in ends(key)):
            why = Why(Ground.NO_COUNTERPART, "you said how its place in the model starts")
        similar = () if quiet or key in rejected else _similar(key, by_shape.get(_class(spec), ()))
        out.append(Unused(spec=spec, network=network, why=why, quiet=quiet, similar=similar, same_as=same_as))
    return tuple(out)


def without_dead_statistics(unused: Iterable[Unused], target: Target) -> tuple[Unused, ...]:
    """Return unused tensors; nobody needs to hear of what torch before 0.4 wrote for instance norms, which never used it.

    Statistics that were used go with a counter of batches. Such a norm without them is a module without any tensors, often.
    """
    unused = tuple(unused)
    names = {one.spec.name for one in unused}
    return tuple(
        [replace(one, quiet=True, why=_DEAD) if _is_dead(one.spec.name, names, target) else one for one in unused]
    )


_DEAD = Why(Ground.DERIVED, "statistics that an instance norm doesn't use")


def _is_dead(name: str, names: Container[str], target: Target) -> bool:
    owner, _, role = name.rpartition(".")
    if role not in STATISTICS or f"{owner}.num_batches_tracked" in names:
        return False
    return any(target.classes.get(end, "").startswith("InstanceNorm") for end in ends(owner))


def _names_in_file(step: Step) -> set[str]:
    """Return what the file would call a slot by each of its names: what makes a key of one of them makes keys of all."""
    found: set[str] = set()
    for feed in step.feeds:
        for name in step.slot.names:
            old, new = (f"{path}." if path else "" for path in without_common_end(feed.key, name))
            found.update(old + other[len(new) :] for other in step.slot.names if other.startswith(new))
    return found


def _class(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(sorted(d for d in spec.shape if d != 1))


def _similar(key: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return up to three fresh slots of the same shape whose names come closest; the only one of a shape in any case."""
    if len(key) > LONGEST:
        return ()
    few = [name for name in names[:200] if len(name) <= LONGEST]
    rated = sorted(((SequenceMatcher(None, key, name).ratio(), name) for name in few), reverse=True)
    return tuple(name for ratio, name in rated[:3] if ratio > 0.5 or len(names) == 1)
