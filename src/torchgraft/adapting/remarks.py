"""Notes on a plan: what is right by every rule, and may surprise all the same, such as a shorter list of layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

from torchgraft.adapting.cut_lists import Cut, cut_lists, repeated, spread
from torchgraft.adapting.tables import NAME_LISTS
from torchgraft.core.errors import printable
from torchgraft.core.formatting import listed
from torchgraft.core.grounds import Ground
from torchgraft.core.plan import Action, Plan, Step

_NUMBERED = re.compile(r"(?P<stem>\D*)(?P<number>\d+)")
FEW = 3  # modules in a part from which on another one of the same build is no accident
DEEPEST = 4
MOST_TENSORS = 3
MOST_PICKS = 12  # layers whose numbers are spelled


def remarks(plan: Plan, is_picked: Callable[[str], bool] = lambda _: False) -> tuple[str, ...]:
    """Return the notes on a plan; `is_picked` says of a list of layers whether the caller picked among them."""
    return (
        *_shorter_lists(plan, is_picked),
        *_untied_tables(plan),
        *_fresh_twins(plan),
        *_norms_behind_fresh(plan),
        *_norms_without_statistics(plan),
        *_other_norms(plan),
    )


def _shorter_lists(plan: Plan, is_picked: Callable[[str], bool]) -> Iterator[str]:
    """Yield which lists have more members on one side than on the other, where the rest are like those that go over.

    Where the caller said which layer goes where, nothing needs to be said.
    """
    ruled = [step for step in plan.steps if step.why.rule == Ground.USER_RULE and step.feeds]
    said = {name for step in ruled for name in (step.slot.name, step.feeds[0].key)}

    def is_said(path: str) -> bool:
        return is_picked(path) or any(name.startswith(path.removesuffix("{i}")) for name in said)

    left_over = {one.spec.name for one in plan.unused if one.why.rule == Ground.NO_COUNTERPART}
    used = {feed.key for step in plan.steps for feed in step.feeds}
    in_file = _without(is_said, cut_lists(plan.source_specs, left_over, used))
    slots = {step.slot.name: step.slot.spec for step in plan.steps if step.slot.persistent}
    fresh = {step.slot.name for step in plan.fresh if step.why.rule == Ground.NO_COUNTERPART}
    filled = {step.slot.name for step in plan.steps if step.feeds or step.ops}
    in_model = _without(is_said, cut_lists(slots, fresh, filled))
    for cut, lists in in_file.items():
        if cut not in in_model:
            yield (
                f"{listed(lists)}: the file has {cut.size} layers, of which {cut.words('is', 'are')} not used "
                f"({_layers(lists[0], spread(cut))} picks others)"
            )
    for cut, lists in in_model.items():
        if cut not in in_file:
            yield (
                f"{listed(lists)}: the model has {cut.size} layers, of which {cut.words('stays', 'stay')} "
                f"fresh ({_layers(lists[0], repeated(cut))} repeats those of the file; init= with 'zero' for their last layers "
                "before a shortcut lets them change nothing at first)"
            )


def _layers(path: str, picks: Sequence[int]) -> str:
    """Return the argument that picks layers of a list, its value left out where that is long."""
    return f"layers={{{path!r}: {list(picks)}}}" if len(picks) <= MOST_PICKS else "layers="


def _without(is_said: Callable[[str], bool], found: Mapping[Cut, list[str]]) -> dict[Cut, list[str]]:
    left = {cut: [path for path in lists if not is_said(path)] for cut, lists in found.items()}
    return {cut: lists for cut, lists in left.items() if lists}


def _untied_tables(plan: Plan) -> Iterator[str]:
    """Yield output layers that stay fresh beside a loaded embedding of their shape, or the other way round.

    Only the longest table is meant: a head for two classes is no table of two kinds of tokens.
    """
    rows = [s for s in plan.steps if len(s.slot.spec.shape) == 2 and s.slot.kind in ("Embedding", "Linear")]
    longest = max([s.slot.spec.shape[0] for s in rows if s.slot.kind == "Embedding"], default=0)
    loaded = [s for s in rows if s.action is Action.COPY]
    for step in rows:
        if step.feeds or step.ops or step.why.rule != Ground.NO_COUNTERPART or step.slot.spec.shape[0] != longest:
            continue
        like = [s for s in loaded if s.slot.spec.shape == step.slot.spec.shape and s.slot.kind != step.slot.kind]
        if len(like) == 1:
            here, there = step.slot.owner, like[0].slot.owner
            source = like[0].feeds[0].key.rpartition(".")[0]
            yield (
                f"{printable(step.slot.name)} stays fresh and has the shape of {printable(like[0].slot.name)}: if the model of "
                f"the file has the two tied, fan_out={{{source!r}: [{there!r}, {here!r}]}} fills both"
            )


def _fresh_twins(plan: Plan) -> Iterator[str]:
    """Yield parts of the model that stay fresh and are built like one that the file fills: a second branch, a teacher.

    Blocks and single layers are often built alike, and mean nothing by it.
    """
    steps = [step for step in plan.steps if step.slot.persistent]
    if all(step.feeds or step.quiet for step in steps):
        return
    parts = _parts(steps)
    filled = {part: source for part, inside in parts.items() if (source := _whole_source(inside)) is not None}
    for part, inside in parts.items():
        left = [step for step in inside.values() if not step.quiet]
        if len({step.slot.owner for step in left}) < FEW or any(
            step.feeds or step.why.rule != Ground.NO_COUNTERPART for step in left
        ):
            continue
        like = [other for other in filled if parts[other].keys() == inside.keys() and _alike(parts[other], inside)]
        if len(like) == 1:
            yield (
                f"{printable(part)} stays fresh and is built like {printable(like[0])}: if both start from the same weights, "
                f"fan_out={{{filled[like[0]]!r}: [{like[0]!r}, {part!r}]}} fills both"
            )


def _parts(steps: Sequence[Step]) -> Mapping[str, Mapping[str, Step]]:
    """Return the steps of each part of the model by their names within it: parts lie directly in what all layers lie in."""
    paths = [step.slot.name.split(".")[:-1] for step in steps]
    root = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(paths), max(paths), strict=False))]
    parts: dict[str, dict[str, Step]] = defaultdict(dict)
    for step in steps:
        part, _, rest = ".".join(step.slot.name.split(".")[len(root) :]).partition(".")
        if rest and not _NUMBERED.fullmatch(part):
            parts[".".join([*root, part])][rest] = step
    return parts


def _whole_source(inside: Mapping[str, Step]) -> str | None:
    """Return what the file calls the module that fills a part, None where no one module fills all of it."""
    sources = set()
    for rest, step in inside.items():
        key = step.feeds[0].key if len(step.feeds) == 1 else ""
        if key == rest or key.endswith(f".{rest}"):
            sources.add(key.removesuffix(rest).rstrip("."))
        elif not step.quiet:
            return None
    return sources.pop() if len(sources) == 1 else None


def _alike(one: Mapping[str, Step], other: Mapping[str, Step]) -> bool:
    """Whether at most one weight in ten differs in shape, as a first layer for other channels does."""
    apart = sum(step.slot.spec.shape != other[rest].slot.spec.shape for rest, step in one.items())
    return 10 * apart <= len(one)


def _norms_behind_fresh(plan: Plan) -> Iterator[str]:
    """Yield norms whose statistics come from the file while the layer before them starts fresh.

    What lies within a layer is a part of it, and no layer before.
    """
    before: Step | None = None
    names: list[str] = []
    layers: list[str] = []
    for step in plan.steps:
        if len(step.slot.spec.shape) > 1 and step.slot.role == "weight":
            if before is None or not step.slot.owner.startswith(f"{before.slot.owner}."):
                before = step
        elif step.slot.role == "running_var" and step.feeds and before is not None and _stands_fresh(before, step):
            names.append(step.slot.owner)
            layers.append(before.slot.owner)
    if names:
        yield (
            f"{listed(names)}: statistics and scales come from the file, while the layer before ({listed(layers)}) starts "
            "fresh: they don't describe its outputs"
        )


def _norms_without_statistics(plan: Plan) -> Iterator[str]:
    """Yield norms whose scales come from the file and whose statistics don't, as where parameters alone were saved."""
    filled = {step.slot.owner for step in plan.steps if step.slot.role in ("weight", "bias") and step.feeds}
    lacking = [s for s in plan.fresh if s.slot.role == "running_var" and s.why.rule == Ground.NO_COUNTERPART]
    if names := [step.slot.owner for step in lacking if step.slot.owner in filled]:
        yield (
            f"{listed(names)}: the file has scales and no running statistics, as where parameters alone were saved; the model "
            "keeps its own, which don't fit: train it for some steps before it is evaluated"
        )


def _other_norms(plan: Plan) -> Iterator[str]:
    """Yield norms of another kind that get the scales of batch norms, whose statistics have no place."""
    kept = {step.slot.owner for step in plan.steps if step.slot.role == "running_var"}
    left = {one.spec.name for one in plan.unused if not one.quiet and one.spec.name.endswith("running_var")}
    found = [
        step.slot
        for step in plan.steps
        if step.slot.role == "weight" and step.slot.owner not in kept and len(step.feeds) == 1
        if step.feeds[0].key.removesuffix("weight") + "running_var" in left
    ]
    if found:
        kinds = " and ".join(sorted({slot.kind for slot in found} - {""})) or "norms without statistics"
        yield (
            f"{listed([slot.owner for slot in found])}: scales of batch norms go into {kinds}, which normalises in another way "
            "(the statistics in the file have no place): outputs will differ"
        )


def _stands_fresh(layer: Step, norm: Step) -> bool:
    """Whether a layer stays fresh that has an output for each channel of a norm."""
    return not layer.feeds and not layer.ops and layer.slot.spec.shape[:1] == norm.slot.spec.shape[:1]


def named_row_notes(plan: Plan, facts: Mapping[str, object]) -> Iterator[str]:
    """Yield that the file says what the rows of some copied tensors mean, which nobody has compared with the model's.

    `facts` is what lies beside the tensors. A dictionary of other names, or in another order, has the same shapes.
    """
    for path, names in _lists(facts):
        rows = tuple(
            s.slot.name for s in plan.steps
            if s.slot.role == "weight" and len(s.slot.spec.shape) > 1 and s.slot.spec.shape[0] == len(names)
            and s.action is Action.COPY
        )  # fmt: skip
        if 0 < len(rows) <= MOST_TENSORS:
            first = ", ".join(repr(printable(name, 20)) for name in names[:2])
            yield (
                f"the file names {len(names)} rows ({printable(path)}: {first}, …), as many as there are in {listed(rows)}: "
                "whether the model's mean the same was not checked; class_names= moves rows by their names"
            )


def _lists(facts: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each list of names, and the names in the order of the rows."""
    if not isinstance(facts, dict) or depth > DEEPEST:
        return
    for key, value in facts.items():
        if isinstance(key, str):
            here = f"{path}/{key}" if path else key
            names = _names(value) if key.lower().rpartition("/")[2] in NAME_LISTS else []
            if names:
                yield here, names
            else:
                yield from _lists(value, here, depth + 1)


def _names(value: object) -> list[str]:
    """Return names in the order of their rows; nothing for what is no list of several."""
    if isinstance(value, dict) and all(str(key).isdecimal() for key in value):
        value = [value[key] for key in sorted(value, key=lambda key: int(str(key)))]
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(name, str) for name in value):
        return []
    names = list(value)
    unnamed = [f"LABEL_{row}" for row in range(len(names))]  # what transformers calls classes that nobody named
    return [] if names == unnamed else names
