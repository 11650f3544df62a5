"""Why two runs part at an operation: each reason with both values and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from torchgraft.core.families import family
from torchgraft.core.results.recording import Operation
from torchgraft.core.results.verification import Cause
from torchgraft.verifying.divergence import Matches, Parting
from torchgraft.verifying.explaining.constants import cause_at, tables, words_of

DEEPEST = 8


def facts_at(matches: Matches, parting: Parting) -> list[Cause]:
    """Return what differs at the two operations at which runs part: modes, settings, heads, tables; the surest first."""
    if parting.target is None or parting.source is None:
        return []
    mine, other = matches.target.operations[parting.target], matches.source.operations[parting.source]
    return [cause for look in (_modes, _settings, _heads, tables) for cause in look(matches, mine, other)]


def signs_at(matches: Matches, parting: Parting) -> list[Cause]:
    """Return what the operations look like where nothing else explains it: inputs in another order, other operations."""
    if parting.target is None or parting.source is None:
        return [_alone(matches, parting)]
    mine, other = matches.target.operations[parting.target], matches.source.operations[parting.source]
    return [cause for look in (_arguments, _structure) for cause in look(matches, mine, other)]


def _modes(_: Matches, mine: Operation, other: Operation) -> Iterator[Cause]:
    """Yield training mode: statistics of the batch in place of the running ones, or dropout."""
    if bool(mine.settings.get("training")) != bool(other.settings.get("training")):
        ours, theirs = ("training" if op.settings.get("training") else "evaluation" for op in (mine, other))
        text = f"{words_of(mine)} runs in {ours} mode, in the source in {theirs} mode"
        yield cause_at(mine, other, "mode", text, "call eval() on the model, or on both", (ours, theirs))
    for op, side in ((mine, "the model"), (other, "the source")):
        if family(op.name) == "dropout" and op.settings.get("train", True):
            text = f"{side} applies dropout in {words_of(op)}"
            yield cause_at(mine, other, "mode", text, "call eval(), or set p to 0")


def _arguments(matches: Matches, mine: Operation, other: Operation) -> Iterator[Cause]:
    """Yield another order of arguments: what the target uses as query is what the source uses as key."""
    seen = 0
    pairs = [(mine, other)]
    while pairs and seen < DEEPEST:
        seen += 1
        a, b = pairs.pop(0)
        if family(a.name) == family(b.name) and (swap := _permuted(matches, a, b)):
            said = ", ".join(f"{name} of the model is {there} of the source" for name, there in swap)
            text = f"{words_of(a)} takes its inputs in another order: {said}"
            remedy = "exchange the weights that make them, or the parts of the fused weight"
            ours, theirs = zip(*swap, strict=True)
            yield cause_at(a, b, "order", text, remedy, (ours, theirs))
            return
        pairs.extend(_makers(matches, a, b))


def _permuted(matches: Matches, a: Operation, b: Operation) -> list[tuple[str, str]]:
    """Return (argument here, argument there) where the arguments of `a` are those of `b`, in another order."""
    if len(a.inputs) != len(b.inputs):
        return []
    there = dict(enumerate(b.inputs))
    out = []
    for at, number in enumerate(a.inputs):
        values = matches.found.get(number, ())
        if not matches.target.values[number].live or not values:
            continue
        if there[at] in values:
            continue
        place = next((i for i, n in there.items() if n in values), None)
        if place is None:
            return []
        out.append((_argument(a, at), _argument(b, place)))
    commutes = family(a.name) in ("sum", "product") and a.name.rstrip("_") in ("add", "mul")
    return [] if commutes or len(out) < 2 else out


def _argument(op: Operation, at: int) -> str:
    return op.arguments[at] if op.arguments.count(op.arguments[at]) == 1 else f"{op.arguments[at]}[{at}]"


def _makers(matches: Matches, a: Operation, b: Operation) -> list[tuple[Operation, Operation]]:
    """Return pairs of operations that made inputs of both which have equal entries, in whatever order."""
    out = []
    for number in a.inputs:
        mine = matches.target.values[number]
        for there in matches.found.get(number, ()):
            other = matches.source.values[there]
            if there in b.inputs and mine.op >= 0 and other.op >= 0 and mine.live:
                out.append((matches.target.operations[mine.op], matches.source.operations[other.op]))
                break
    return out


def _heads(_: Matches, mine: Operation, other: Operation) -> Iterator[Cause]:
    """Yield other numbers of heads: as many elements, cut in another way."""
    if family(mine.name) not in ("attention", "matrix product", "softmax") or family(mine.name) != family(other.name):
        return
    for a, b in zip(mine.shapes, other.shapes, strict=False):
        if len(a) < 3 or len(b) < 3 or a == b or prod(a[-2:]) == 0:
            continue
        ours, theirs = a[-3], b[-3]
        if ours != theirs and (a[-1] * ours == b[-1] * theirs or prod(a) == prod(b)):
            text = f"{words_of(mine)} works on {list(a)}, the source on {list(b)}: another number of heads"
            remedy = "build the model with the source's number of heads"
            yield cause_at(mine, other, "heads", text, remedy, (ours, theirs))
            return


def _settings(_: Matches, mine: Operation, other: Operation) -> Iterator[Cause]:
    """Yield other settings of one kind of operation, and other activation functions."""
    kind = family(mine.name)
    if kind != family(other.name) or kind == "pick":  # where parts are picked is no setting, see `_structure`
        return
    if kind == "activation" and (mine.name.rstrip("_") != other.name.rstrip("_") or _differing(mine, other)):
        ours, theirs = _signature(mine), _signature(other)
        text = f"{words_of(mine)} applies {ours}, the source {theirs}"
        yield cause_at(mine, other, "activation", text, f"build the model with {theirs}", (ours, theirs))
        return
    for name, (a, b) in _differing(mine, other).items():
        sort = {"padding": "padding", "pad": "padding", "scale": "scale"}.get(name, "setting")
        if kind == "product" and name == "other":
            sort = "scale"
        text = f"{words_of(mine)}: {name} is {a}, in the source {b}"
        yield cause_at(mine, other, sort, text, _remedy(mine, name, b), (a, b))


def _remedy(op: Operation, name: str, value: object) -> str:
    if op.module and name in ("eps", "stride", "padding", "dilation", "groups", "negative_slope"):
        return f"set {op.module}.{name} = {value}, or build the model with it"
    return f"build the model with {name} {value}"


_IDLE = frozenset({
    "momentum", "training", "train", "memory_format", "dtype", "layout", "device", "pin_memory", "implicit", "sparse",
    "scale_grad_by_freq", "attn_mask", "size", "dropout_p",
})  # fmt: skip


def _differing(mine: Operation, other: Operation) -> dict[str, tuple[object, object]]:
    both = [name for name in mine.settings if name in other.settings and name not in _IDLE]
    both.sort(key=lambda name: name == "padding")  # it mostly follows from the others
    return {n: (mine.settings[n], other.settings[n]) for n in both if not _alike(mine.settings[n], other.settings[n])}


def _alike(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) != len(b):
        return set(a) == set(b)
    return a == b


# Settings by which activation functions of one name differ.
_SHAPING = frozenset({
    "approximate", "negative_slope", "alpha", "min", "max", "min_val", "max_val", "beta", "threshold", "lambd",
})  # fmt: skip


def _signature(op: Operation) -> str:
    values = [f"{key}={value}" for key, value in op.settings.items() if key in _SHAPING and value is not None]
    return op.name.rstrip("_") + (f"({', '.join(values)})" if values else "")


def _structure(matches: Matches, mine: Operation, other: Operation) -> Iterator[Cause]:
    """Yield another operation at the same place: a padding, a norm in another place, a step left out."""
    ours, theirs = family(mine.name), family(other.name)
    live = [
        [n for n in op.inputs if rec.values[n].live] for op, rec in ((mine, matches.target), (other, matches.source))
    ]
    if "padding" in (ours, theirs) and ours != theirs:
        side, pads, before = ("the model", mine, other) if ours == "padding" else ("the source", other, mine)
        text = f"{side} pads by {pads.settings.get('pad')} before {words_of(before)}"
        remedy = "build the model with the source's padding (TensorFlow's `same` pads one side more)"
        said = tuple(op.settings.get("padding", op.settings.get("pad")) for op in (mine, other))
        yield cause_at(mine, other, "padding", text, remedy, (said[0], said[1]))
    elif ours != theirs:
        text = f"at this place the model runs {words_of(mine)}, the source {words_of(other)}"
        remedy = "compare how the two are built: a step is missing, added, or in another place"
        yield cause_at(mine, other, "structure", text, remedy, (ours, theirs))
    elif ours == "pick" and mine.settings != other.settings:
        text = f"{words_of(mine)} picks {_plainly(mine)}, the source {_plainly(other)}"
        remedy = "the parts are laid out in another order: check heads, parts of fused weights, and rotary pairs"
        yield cause_at(mine, other, "order", text, remedy)
    elif any(n in matches.found and not set(matches.found[n]) & set(live[1]) for n in live[0]):
        text = f"{words_of(mine)} works on another value than {words_of(other)} of the source"
        remedy = "compare the order of layers: the step stands in another place"
        yield cause_at(mine, other, "structure", text, remedy)


def _plainly(op: Operation) -> str:
    return ", ".join(f"{k}={v}" for k, v in op.settings.items())


def _alone(matches: Matches, parting: Parting) -> Cause:
    remedy = "compare how the two are built"
    if parting.target is not None:
        mine = matches.target.operations[parting.target]
        text = f"the model does {words_of(mine)}, which the source has nothing like"
        return Cause(kind="structure", text=text, module=mine.module, remedy=remedy)
    other = matches.source.operations[parting.source or 0]
    text = f"the source does {words_of(other)}, which the model leaves out"
    return Cause(kind="structure", text=text, source_module=other.module, remedy=remedy)
