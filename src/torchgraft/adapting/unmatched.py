"""What stays fresh and what stays unused, and why; with "did you mean" where the two might belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from torchgraft.core.grounds import Ground
from torchgraft.core.names import above, ends, is_derived, without_common_end
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
    """Second names in the file: `shared` maps names of one tensor to its first, `repeats` those of tensors of equal values."""

    shared: Mapping[str, str] = field(default_factory=dict)
    repeats: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.shared or self.repeats)

    def first(self, key: str) -> str:
        """Return the first name of what a key holds."""
        return self.repeats.get(key) or self.shared.get(key, key)

    def reason(self, key: str, used: str) -> str:
        """Return why a key isn't needed beside another one that is used."""
        one = self.shared.get(key, key) == self.shared.get(used, used)
        return f"another name of {used}: one tensor in the file" if one else f"holds the same values as {used}"


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
    reasons = _reasons(steps, used, rejected, derived, second)
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for step in steps:
        if step.action is Action.FRESH and step.why.rule == Ground.NO_COUNTERPART and not step.quiet:
            by_shape.setdefault(_class(step.slot.spec), []).append(step.slot.name)
    out: list[Unused] = []
    for key, spec in specs.items():
        if key in used:
            continue
        why, same_as = reasons.of(key)
        quiet = is_derived(spec) or why.rule in (Ground.DERIVED, Ground.ALIAS, Ground.ECHO)
        similar = () if quiet or why.rule == Ground.SHAPE else _similar(key, by_shape.get(_class(spec), ()))
        out.append(Unused(spec=spec, network=network, why=why, quiet=quiet, similar=similar, same_as=same_as))
    return tuple(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reasons:
    """What tells why a tensor of the file feeds nothing.

    `derived` and `rejected` lead from its name to what is said of it, `aliases` to the step of a slot with several names, `fed`
    from the first name of what is used to the name that it is used by. `taken` are names of slots that something else fills,
    `kept` those of which the caller said how they start.
    """

    derived: Mapping[str, str]
    rejected: Mapping[str, str]
    aliases: Mapping[str, Step]
    fed: Mapping[str, str]
    second: SecondNames
    taken: Container[str]
    kept: Collection[str]

    def of(self, key: str) -> tuple[Why, str]:
        """Return the reason, and the name of the same tensor, or of the same values, that is used in its place; "" without."""
        if key in self.derived:
            return Why(Ground.DERIVED, f"computed from {self.derived[key]}"), ""
        if key in self.aliases:
            slot, used = self.aliases[key].slot, self.aliases[key].feeds[0].key
            return Why(Ground.ALIAS, f"another name of {slot.name}, fed by {used}"), used
        again = self.fed.get(self.second.first(key)) if self.fed else None
        if again is not None:
            return Why(Ground.ECHO, self.second.reason(key, again)), again
        if key in self.rejected:
            return Why(Ground.SHAPE, self.rejected[key]), ""
        if key in self.taken:
            return _TAKEN, ""
        return (_SAID if self.kept and any(end in self.kept for end in ends(key)) else _NO_PLACE), ""


_NO_PLACE = Why(Ground.NO_COUNTERPART, "the model has no place for it")
_TAKEN = Why(Ground.NO_COUNTERPART, "another tensor fills the place of this name")
_SAID = Why(Ground.NO_COUNTERPART, "you said how its place in the model starts")


def _reasons(
    steps: Sequence[Step],
    used: Iterable[str],
    rejected: Mapping[str, str],
    derived: Mapping[str, str],
    second: SecondNames,
) -> _Reasons:
    tied = [step for step in steps if step.slot.aliases and step.feeds]
    most = _prefixes_of_most(steps) if tied else ("", "")
    unfit = [step for step in steps if step.slot.aliases and step.why.rule == Ground.SHAPE and not step.feeds]
    return _Reasons(
        derived=derived,
        rejected={name: step.why.text for step in unfit for name in step.slot.names} | dict(rejected),
        aliases={name: step for step in tied for name in _names_in_file(step, most)},
        fed={second.first(key): key for key in used} if second else {},
        second=second,
        taken={name for step in steps for name in step.slot.names if step.feeds},
        kept={
            name for step in steps if step.why.rule == Ground.USER_RULE and not step.feeds for name in step.slot.names
        },
    )


def without_dead_statistics(unused: Iterable[Unused], target: Target) -> tuple[Unused, ...]:
    """Return unused tensors, the statistics of instance norms quiet: torch before 0.4 wrote them, and never used them.

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


def _names_in_file(step: Step, most: tuple[str, str]) -> set[str]:
    """Return what the file would call a slot by each of its names: what makes a key of one of them makes keys of all.

    So does what makes keys of `most` names: beside a `lm_head` that both sides call so there may be the `model.embed_tokens`
    of a file whose `model` is `model.language_model` here.
    """
    names = step.slot.names
    prefixes: dict[str, set[str]] = {}
    for old, new in (most, *(_prefixes(feed.key, name) for feed in step.feeds for name in names)):
        prefixes.setdefault(new, set()).add(old)
    return {
        old + name[len(new) :]
        for name in names
        for new in ("", *(f"{path}." for path in above(name)))
        for old in prefixes.get(new, ())
    }


def _prefixes_of_most(steps: Iterable[Step]) -> tuple[str, str]:
    """Return the prefixes that most keys and most slot names have before their common end."""
    found = Counter(_prefixes(step.feeds[0].key, step.slot.name) for step in steps if len(step.feeds) == 1)
    return found.most_common(1)[0][0] if found else ("", "")


def _prefixes(key: str, name: str) -> tuple[str, str]:
    old, new = (f"{path}." if path else "" for path in without_common_end(key, name))
    return old, new


def _class(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(sorted(d for d in spec.shape if d != 1))


def _similar(key: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return up to three fresh slots of the same shape whose names come closest; the only one of a shape in any case."""
    if len(key) > LONGEST:
        return ()
    few = [name for name in names[:200] if len(name) <= LONGEST]
    rated = sorted(((SequenceMatcher(None, key, name).ratio(), name) for name in few), reverse=True)
    return tuple(name for ratio, name in rated[:3] if ratio > 0.5 or len(names) == 1)
