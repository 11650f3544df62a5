"""Experts stacked in one tensor on one side, and apart on the other: seen apart on both sides, and put back together.

`experts.gate_up_proj` [E, out, in] holds what `experts.{e}.gate_up_proj.weight` [out, in] do, in the order of the
numbers e. What proves that order is the router: row e of its matrix is for expert e. Where it goes over as it is, such steps
are as certain as the experts themselves, and else likely.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from torchgraft.core.grounds import Ground
from torchgraft.core.names import words
from torchgraft.core.plan import Action, Certainty, Feed, Op, Step, Unused, Why, least_certain
from torchgraft.core.specs import Shape, Slot, Target, TensorSpec
from torchgraft.ops import Concat, Index, Reshape, Stack, Transpose

_APART = re.compile(r"(?P<head>(?:.*\.)?[^.]*expert[^.]*)\.(?:expert_?)?(?P<number>\d+)\.(?P<rest>.+)")
# Words of modules that hold stacks: `experts`, `block_sparse_moe`, MLX's `switch_mlp`, GGUF's `ffn_up_exps`.
_HOMES = frozenset({"expert", "experts", "moe", "switch", "exps"})
_ROLES = ("weight", "bias")
MOST = 8


@dataclass(frozen=True, slots=True)
class Experts:
    """Both sides with their experts apart. `stacks` maps a slot to its parts, `parts` a shown key to (key, number)."""

    specs: Mapping[str, TensorSpec]
    shown: Mapping[str, TensorSpec]
    target: Target
    stacks: Mapping[str, tuple[Slot, tuple[Slot, ...]]]
    parts: Mapping[str, tuple[str, int]]

    def original_steps(self, steps: Mapping[str, Step]) -> dict[str, Step]:
        """Return the steps with the file's own keys, one for each slot of the model."""
        routed = _routed(steps.values())
        read = {name: self._with_own_keys(step, routed) for name, step in steps.items()}
        gone = {part.name for _, parts in self.stacks.values() for part in parts}
        out = {name: step for name, step in read.items() if name not in gone}
        for name, (slot, parts) in self.stacks.items():
            made = [read.get(part.name) for part in parts]
            if any(made):
                out[name] = _stacked(slot, made, routed)
        return self._with_square_doubted(out)

    def original_unused(self, unused: Sequence[Unused], steps: Iterable[Step], network: str) -> tuple[Unused, ...]:
        """Return the fates of the file's own tensors: a stack is unused when all its experts are."""
        steps = tuple(steps)
        used = {feed.key for step in steps for feed in step.feeds}
        lacking = [step for step in steps if step.action is Action.FRESH and step.why.rule == Ground.EXPERTS_LACKING]
        out: dict[str, Unused] = {}
        for fate in unused:
            key, _ = self.parts.get(fate.spec.name, (fate.spec.name, 0))
            if key not in used:
                if lacking and _is_apart(key):
                    text = f"belongs into a stack that can't be filled whole: {lacking[0].slot.name} or one beside it"
                    fate = replace(fate, why=Why(Ground.EXPERTS_LACKING, text), similar=())  # noqa: PLW2901
                whole = (
                    fate if key == fate.spec.name else replace(fate, spec=self.specs[key], network=network, similar=())
                )
                out.setdefault(key, whole)
        return tuple(out.values())

    def _with_own_keys(self, step: Step, routed: AbstractSet[tuple[str, int]]) -> Step:
        if not any(feed.key in self.parts for feed in step.feeds):
            return step
        feeds, numbers = [], set()
        for feed in step.feeds:
            key, number = self.parts.get(feed.key, (feed.key, -1))
            feeds.append(Feed(key, (Index(0, number), *feed.ops), feed.network) if number >= 0 else feed)
            numbers.add(number)
        mine = _APART.fullmatch(step.slot.name)
        moved = (mine is None or numbers != {int(mine["number"])}) and step.why.rule != Ground.USER_RULE
        said = "the expert of another number in the stack" if moved else "the expert of the same number in the stack"
        known = mine is not None and _is_routed(mine["head"], self.specs[feeds[0].key].shape[0], routed)
        sure = Certainty.DOUBT if moved else Certainty.CERTAIN if known else Certainty.LIKELY
        why = replace(step.why, rule=Ground.EXPERTS, text=f"{step.why.text}; {said}")
        return replace(step, feeds=tuple(feeds), why=why, certainty=least_certain([sure, step.certainty]))

    def _with_square_doubted(self, steps: Mapping[str, Step]) -> dict[str, Step]:
        """Return the steps, in doubt where an expert's matrix is square and no other shows how they are stored."""
        matrices = {name: shape for name, step in steps.items() if (shape := self._matrix(step)) is not None}
        shown = {_is_turned(steps[name]) for name, (rows, columns) in matrices.items() if rows != columns}
        out = dict(steps)
        for name, (rows, columns) in matrices.items():
            if rows == columns and shown != {_is_turned(steps[name])}:
                text = f"{steps[name].why.text}; the matrices are square, so they may be stored [in, out] or [out, in]"
                why = replace(steps[name].why, text=text)
                out[name] = replace(steps[name], why=why, certainty=Certainty.DOUBT)
        return out

    def _matrix(self, step: Step) -> Shape | None:
        """Return the shape of one expert's matrix, None where the step makes none."""
        shape = step.slot.spec.shape[step.slot.name in self.stacks :]
        return shape if step.why.rule == Ground.EXPERTS and step.feeds and len(shape) == 2 else None


def _is_turned(step: Step) -> bool:
    return any(isinstance(op, Transpose) for feed in step.feeds for op in feed.ops)


def experts_apart(specs: Mapping[str, TensorSpec], target: Target, is_decided: Callable[[str], bool]) -> Experts | None:
    """Return both sides with experts apart; None where they agree in that already, or there are none.

    `is_decided` says of which slots the caller has decided already; they stay as they are.
    """
    ours, theirs = (any(map(_is_apart, names)) for names in (specs, (slot.name for slot in target.slots)))
    if ours == theirs:
        return None
    stacks: dict[str, tuple[str, str]] = {}
    piles: dict[str, tuple[str, str]] = {}
    if ours:
        slots = [s for s in target.slots if not (s.is_buffer or s.aliases or "Conv" in s.kind or is_decided(s.name))]
        stacks = _stacks({s.name: s.spec.shape for s in slots}, _counts(specs))
    else:
        piles = _stacks({key: spec.shape for key, spec in specs.items()}, _counts(s.name for s in target.slots))
    if not stacks and not piles:
        return None
    shown, parts = _specs_apart(specs, piles)
    seen, homes = _slots_apart(target.slots, stacks)
    return Experts(specs, shown, replace(target, slots=seen), homes, parts)


def _is_apart(name: str) -> bool:
    return "expert" in name and _APART.fullmatch(name) is not None


def _counts(names: Iterable[str]) -> set[int]:
    """Return how many experts stand apart in each list, by each of their tensors: experts that do nothing may lack some."""
    counts: dict[tuple[str, str], int] = {}
    for name in names:
        match = _APART.fullmatch(name)
        if match:
            kind = match["head"], match["rest"]
            counts[kind] = max(counts.get(kind, 0), int(match["number"]) + 1)
    return set(counts.values())


def _stacks(shapes: Mapping[str, Shape], counts: set[int]) -> dict[str, tuple[str, str]]:
    """Return name -> (path of its experts, name below an expert) of tensors that stack as many experts.

    A tensor of three axes below a module of experts is a stack; one of two axes is, if it is the bias of such a one.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, shape in shapes.items():
        split = _split(name)
        if split and len(shape) == 3 and shape[0] in counts:
            found[name] = split
    stems = {(head, rest.removesuffix(".weight")) for head, rest in found.values()}
    for name, shape in shapes.items():
        split = _split(name)
        is_bias = split is not None and split[1].endswith(".bias") and (split[0], split[1][:-5]) in stems
        if split and is_bias and len(shape) == 2 and shape[0] in counts:
            found[name] = split
    return found


def _split(name: str) -> tuple[str, str] | None:
    """Return the path of the experts' module, and what a tensor in it would be called below a single expert."""
    segments = name.split(".")
    at = max((i for i, s in enumerate(segments[:-1]) if _HOMES & set(words(s))), default=-1)
    if at < 0:
        return None
    rest = ".".join(segments[at + 1 :])
    if segments[-1] not in _ROLES:
        stem, _, role = rest.rpartition("_")
        rest = f"{stem}.{role}" if role in _ROLES else f"{rest}.weight"
    return ".".join(segments[: at + 1]), rest


def _specs_apart(
    specs: Mapping[str, TensorSpec], piles: Mapping[str, tuple[str, str]]
) -> tuple[dict[str, TensorSpec], dict[str, tuple[str, int]]]:
    shown: dict[str, TensorSpec] = {}
    parts: dict[str, tuple[str, int]] = {}
    for key, spec in specs.items():
        if key not in piles:
            shown[key] = spec
            continue
        for own, number, name in _laid_out(key, piles, {k: specs[k].shape[0] for k in piles}):
            shown[name] = TensorSpec(name, specs[own].shape[1:], specs[own].dtype)
            parts[name] = (own, number)
    return shown, parts


def _slots_apart(
    slots: Sequence[Slot], stacks: Mapping[str, tuple[str, str]]
) -> tuple[tuple[Slot, ...], dict[str, tuple[Slot, tuple[Slot, ...]]]]:
    by_name = {slot.name: slot for slot in slots}
    seen: list[Slot] = []
    homes: dict[str, list[Slot]] = {name: [] for name in stacks}
    for slot in slots:
        if slot.name not in stacks:
            seen.append(replace(slot, order=len(seen)))
            continue
        for own, _, name in _laid_out(slot.name, stacks, {n: by_name[n].spec.shape[0] for n in stacks}):
            spec = by_name[own].spec
            part = replace(
                by_name[own],
                spec=TensorSpec(name, spec.shape[1:], spec.dtype),
                owner=name.rpartition(".")[0],
                kind="",  # a part of a parameter: nothing says which way round it is stored
                order=len(seen),
            )
            seen.append(part)
            homes[own].append(part)
    return tuple(seen), {name: (by_name[name], tuple(parts)) for name, parts in homes.items()}


def _laid_out(
    name: str, stacks: Mapping[str, tuple[str, str]], counts: Mapping[str, int]
) -> Iterable[tuple[str, int, str]]:
    """Yield (stack, number, name) of all experts of a module, one expert after the other, at its first stack."""
    head, _ = stacks[name]
    beside = [n for n, (path, _) in stacks.items() if path == head]
    if beside[0] == name:
        for number in range(counts[name]):
            yield from ((n, number, f"{head}.{number}.{stacks[n][1]}") for n in beside if number < counts[n])


def _routed(steps: Iterable[Step]) -> set[tuple[str, int]]:
    """Return (path, rows) of the modules that hold a matrix of so many rows which goes over whole and for certain."""
    return {
        (step.slot.owner.rpartition(".")[0], step.slot.spec.shape[0])
        for step in steps
        if len(step.slot.spec.shape) == 2 and step.action is Action.COPY and step.certainty is Certainty.CERTAIN
    }


def _is_routed(experts: str, count: int, routed: AbstractSet[tuple[str, int]]) -> bool:
    """Return whether a router stands beside the experts at a path: a matrix with a row for each, in its row's order."""
    return (experts.rpartition(".")[0], count) in routed


def _stacked(slot: Slot, made: Sequence[Step | None], routed: AbstractSet[tuple[str, int]]) -> Step:
    """Return the one step of a stack; it is filled whole or not at all."""
    present = [(at, step) for at, step in enumerate(made) if step is not None and step.feeds]
    if not present:
        refused = next(step for step in made if step is not None)
        return Step(slot=slot, why=refused.why, certainty=refused.certainty, alternatives=refused.alternatives)
    first = present[0][1]
    if len(present) < len(made):
        lacking = [str(at) for at in range(len(made)) if at not in dict(present)]
        text = (
            f"the file lacks {_count(lacking)} of {len(made)}, or a part of it; a stack is filled whole or not at all"
        )
        return Step(slot=slot, why=Why(Ground.EXPERTS_LACKING, text, first.why.evidence))
    joint = _joint(present)
    if joint is None or any(step.rows or step.made or step.base for _, step in present):
        why = Why(
            Ground.EXPERTS, f"{len(present)} experts that are made in a way that can't be stacked", first.why.evidence
        )
        return Step(slot=slot, why=why, certainty=Certainty.DOUBT)
    text = f"{len(present)} experts stacked in the order of their numbers"
    path, _ = _split(slot.name) or ("", "")
    sure = Certainty.CERTAIN if _is_routed(path, len(made), routed) else Certainty.LIKELY
    if first.why.rule != Ground.USER_RULE and _are_moved(present):
        text, sure = f"{text}, some under another number", Certainty.DOUBT
    return Step(
        slot=slot,
        feeds=tuple(feed for _, step in present for feed in step.feeds),
        ops=joint,
        why=replace(_doubted_first(present).why, rule=Ground.EXPERTS, text=text),
        certainty=least_certain([sure, *(step.certainty for _, step in present)]),
        alternatives=tuple(dict.fromkeys(a for _, step in present for a in step.alternatives))[:3],
    )


def _are_moved(present: Sequence[tuple[int, Step]]) -> bool:
    """Whether some expert is fed by one that has another number in the file."""
    return any(_number(feed.key) not in (at, None) for at, step in present for feed in step.feeds)


def _doubted_first(present: Sequence[tuple[int, Step]]) -> Step:
    """Return the step of the first expert that is in doubt, and of the first where none is."""
    return next((step for _, step in present if step.why.doubt), present[0][1])


def _count(numbers: Sequence[str]) -> str:
    more = f" and {len(numbers) - MOST} more" if len(numbers) > MOST else ""
    return f"expert{'s' * (len(numbers) > 1)} {', '.join(numbers[:MOST])}{more}"


def _joint(present: Sequence[tuple[int, Step]]) -> tuple[Op, ...] | None:
    """Return the ops that make a stack of all experts' tensors, each of one tensor or of several joined; None if none do.

    Experts of parts joined along rows are joined along them as a whole, which is then cut into experts.
    """
    first = present[0][1]
    if any(step.ops != first.ops or len(step.feeds) != len(first.feeds) for _, step in present):
        return None
    if len(first.feeds) == 1:
        return (Stack(0),) if not first.ops else None
    return (Concat(0), Reshape((len(present), *first.slot.spec.shape))) if first.ops == (Concat(0),) else None


def _number(key: str) -> int | None:
    match = _APART.fullmatch(key)
    return int(match["number"]) if match else None
