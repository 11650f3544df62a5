"""What explains that runs part, seen at the two operations at which they do: each cause with both values and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from math import prod

from torchgraft.core.results.recording import Operation, family
from torchgraft.core.results.verification import Cause
from torchgraft.verifying.divergence import DivergencePoint, Matches
from torchgraft.verifying.explaining.constants import cause_at, constant_inputs, operation_words
from torchgraft.verifying.explaining.settings import other_activations

# At most so many pairs of operations are looked at, going back to where inputs were exchanged.
MOST_SWAP_CHECKS = 8
# Settings that differ without changing results, or that other causes tell of.
_IGNORED_SETTINGS = frozenset({
    "momentum", "training", "train", "memory_format", "dtype", "layout", "device", "pin_memory", "implicit", "sparse",
    "scale_grad_by_freq", "attn_mask", "size", "dropout_p",
})  # fmt: skip
# Settings by which activation functions of one name differ.
_ACTIVATION_SETTINGS = frozenset({
    "approximate", "negative_slope", "alpha", "min", "max", "min_val", "max_val", "beta", "threshold", "lambd",
})  # fmt: skip
# What schemas of operators call a number in the place of a tensor.
_OPERANDS = frozenset({"self", "other", "exponent", "value"})
_CAUSE_KINDS = {"padding": "padding", "pad": "padding", "scale": "scale"}


def definite_causes(matches: Matches, point: DivergencePoint, wrong: Collection[str] = ()) -> list[Cause]:
    """Return what differs at the operations at which runs part: modes, settings, heads, constants; the surest first.

    Tensors that are known to be `wrong` are reported elsewhere.
    """
    if point.target is None or point.source is None:
        return []
    target, source = matches.target.operations[point.target], matches.source.operations[point.source]
    return [
        *_modes(target, source),
        *_heads(target, source),  # by which the scale of attention goes
        *_settings(target, source),
        *_masks(target, source),
        *constant_inputs(matches, target, source, wrong),
    ]


def structural_causes(
    matches: Matches, point: DivergencePoint, fed_by: Callable[[str], Collection[str]]
) -> list[Cause]:
    """Return what the operations suggest where nothing else explains it: inputs in another order, other operations.

    `fed_by` gives the names of the source's tensors that a tensor of the model is planned to be made of.
    """
    if point.target is None or point.source is None:
        return [_without_counterpart(matches, point)]
    target, source = matches.target.operations[point.target], matches.source.operations[point.source]
    if found := list(_other_weights(matches, target, source, fed_by)):
        return found
    return [
        *_exchanged_inputs(matches, target, source),
        *_multiples(matches, target, source),
        *_other_operations(matches, target, source),
    ]


def _modes(target: Operation, source: Operation) -> Iterator[Cause]:
    """Yield training mode: statistics of the batch in place of the running ones, or dropout."""
    target_mode, source_mode = ("training" if op.settings.get("training") else "evaluation" for op in (target, source))
    if target_mode != source_mode:
        text = f"{operation_words(target)} runs in {target_mode} mode, in the source in {source_mode} mode"
        remedy = "call eval() on the model, or on both"
        yield cause_at(target, source, "mode", text, remedy, (target_mode, source_mode))
    for op, side in ((target, "the model"), (source, "the source")):
        if family(op.name) == "dropout" and op.settings.get("train", True):
            text = f"{side} applies dropout in {operation_words(op)}"
            yield cause_at(target, source, "mode", text, "call eval(), or set p to 0")


def _settings(target: Operation, source: Operation) -> Iterator[Cause]:
    """Yield other settings of one kind of operation, and other activation functions."""
    kind = family(target.name)
    if kind != family(source.name) or kind == "pick":  # which parts are picked is no setting, see `_other_operations`
        return
    differing = _differing_settings(target, source)
    if kind == "activation" and (differing or target.name.rstrip("_") != source.name.rstrip("_")):
        functions = _activation_words(target), _activation_words(source)
        text = f"{operation_words(target)} applies {functions[0]}, the source {functions[1]}"
        yield cause_at(target, source, "activation", text, f"build the model with {functions[1]}", functions)
        return
    for name, values in differing.items():
        scaled = kind == "product" and name == "other"
        text = f"{operation_words(target)}: {name} is {values[0]}, in the source {values[1]}"
        remedy = f"build the model with {name} {values[1]}"
        if name in _OPERANDS:  # the operator's word for a number, and nothing that a model is built with
            text = f"{operation_words(target)} takes the number {values[0]}, in the source {values[1]}"
            remedy = f"find the setting that this number comes from: it must come to {values[1]}"
        if target.module and name in ("eps", "stride", "padding", "dilation", "groups", "negative_slope"):
            remedy = f"set {target.module}.{name} = {values[1]}, or build the model with it"
        yield cause_at(target, source, "scale" if scaled else _CAUSE_KINDS.get(name, "setting"), text, remedy, values)


def _differing_settings(target: Operation, source: Operation) -> dict[str, tuple[object, object]]:
    masked = any("attn_mask" in op.arguments for op in (target, source))
    ignored = _IGNORED_SETTINGS | ({"is_causal"} if masked else set())
    names = [name for name in target.settings if name in source.settings and name not in ignored]
    names.sort(key=lambda name: name == "padding")  # it mostly follows from the others
    pairs = {name: (target.settings[name], source.settings[name]) for name in names}
    return {name: pair for name, pair in pairs.items() if not _mean_the_same(*pair)}


def _mean_the_same(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) != len(b):
        return set(a) == set(b)
    return a == b


def _activation_words(op: Operation) -> str:
    values = [
        f"{key}={value}" for key, value in op.settings.items() if key in _ACTIVATION_SETTINGS and value is not None
    ]
    return op.name.rstrip("_") + (f"({', '.join(values)})" if values else "")


def _heads(target: Operation, source: Operation) -> Iterator[Cause]:
    """Yield another number of heads: as many elements, cut in another way."""
    kind = family(target.name)
    if kind not in ("attention", "matrix product", "softmax") or kind != family(source.name):
        return
    for a, b in zip(target.shapes, source.shapes, strict=False):
        if len(a) < 3 or len(b) < 3 or a == b or prod(a[-2:]) == 0:
            continue
        heads = a[-3], b[-3]
        if heads[0] != heads[1] and (a[-1] * heads[0] == b[-1] * heads[1] or prod(a) == prod(b)):
            text = f"{operation_words(target)} works on {list(a)}, the source on {list(b)}: another number of heads"
            yield cause_at(target, source, "heads", text, "build the model with the source's number of heads", heads)
            return


def _masks(target: Operation, source: Operation) -> Iterator[Cause]:
    """Yield a mask that attention is given on one side alone: the other hides what follows, or nothing."""
    if family(target.name) != "attention" or family(source.name) != "attention":
        return
    given = ["attn_mask" in op.arguments for op in (target, source)]
    if given[0] == given[1]:
        return
    words = [
        "a mask or bias" if has else "the causal mask" if op.settings.get("is_causal") else "no mask"
        for has, op in zip(given, (target, source), strict=True)
    ]
    text = f"{operation_words(target)} uses {words[0]}, the source {words[1]}"
    remedy = "build both with the same settings: causal or not, size of a window, bias of positions"
    yield cause_at(target, source, "structure", text, remedy, (words[0], words[1]))


def _exchanged_inputs(matches: Matches, target: Operation, source: Operation) -> Iterator[Cause]:
    """Yield another order of inputs: what the target uses as query is what the source uses as key.

    Looks at these operations, then at those that made their inputs, and so on.
    """
    pairs = [(target, source)]
    for _ in range(MOST_SWAP_CHECKS):
        if not pairs:
            return
        a, b = pairs.pop(0)
        if family(a.name) == family(b.name) and (exchanged := _exchanged_arguments(matches, a, b)):
            words = ", ".join(f"{name} of the model is {other} of the source" for name, other in exchanged)
            text = f"{operation_words(a)} takes its inputs in another order: {words}"
            remedy = "exchange the weights that make them, or the parts of the fused weight"
            target_names, source_names = zip(*exchanged, strict=True)
            yield cause_at(a, b, "order", text, remedy, (target_names, source_names))
            return
        pairs.extend(_producer_pairs(matches, a, b))


def _exchanged_arguments(matches: Matches, target: Operation, source: Operation) -> list[tuple[str, str]]:
    """Return (argument of the target, of the source) where both take the same values in another order."""
    if len(target.inputs) != len(source.inputs):
        return []
    out = []
    for at, number in enumerate(target.inputs):
        same = matches.source_of.get(number, ())
        if not matches.target.values[number].live or not same or source.inputs[at] in same:
            continue
        place = next((i for i, n in enumerate(source.inputs) if n in same), None)
        if place is None:
            return []
        out.append((_argument(target, at), _argument(source, place)))
    commutes = family(target.name) in ("sum", "product") and target.name.rstrip("_") in ("add", "mul")
    return [] if commutes or len(out) < 2 else out


def _argument(op: Operation, at: int) -> str:
    return op.arguments[at] if op.arguments.count(op.arguments[at]) == 1 else f"{op.arguments[at]}[{at}]"


def _producer_pairs(matches: Matches, target: Operation, source: Operation) -> Iterator[tuple[Operation, Operation]]:
    """Yield pairs of operations that made inputs of both which have equal entries, in whatever order."""
    for number in target.inputs:
        value = matches.target.values[number]
        if not value.live or value.op < 0:
            continue
        same = (matches.source.values[n] for n in matches.source_of.get(number, ()) if n in source.inputs)
        if (other := next((v for v in same if v.op >= 0), None)) is not None:
            yield matches.target.operations[value.op], matches.source.operations[other.op]


def _other_operations(matches: Matches, target: Operation, source: Operation) -> Iterator[Cause]:
    """Yield another operation at the same place: a padding, a norm in another place, a step left out."""
    kinds = family(target.name), family(source.name)
    if "padding" in kinds and kinds[0] != kinds[1]:
        side, pads, before = ("the model", target, source) if kinds[0] == "padding" else ("the source", source, target)
        text = f"{side} pads by {pads.settings.get('pad')} before {operation_words(before)}"
        remedy = "build the model with the source's padding (TensorFlow's `same` pads one side more)"
        amounts = [op.settings.get("padding", op.settings.get("pad")) for op in (target, source)]
        yield cause_at(target, source, "padding", text, remedy, (amounts[0], amounts[1]))
    elif functions := other_activations(target.kind, source.kind):  # each made of whatever operations
        text = f"{target.module or 'the model itself'} applies {functions[0]}, the source {functions[1]}"
        yield cause_at(target, source, "activation", text, f"build the model with {functions[1]}", functions)
    elif kinds[0] != kinds[1]:
        text = f"at this place the model runs {operation_words(target)}, the source {operation_words(source)}"
        remedy = "compare how the two are built: a step is missing, added, or in another place"
        yield cause_at(target, source, "structure", text, remedy, kinds)
    elif kinds[0] == "pick" and target.settings != source.settings:
        text = f"{operation_words(target)} picks {_settings_words(target)}, the source {_settings_words(source)}"
        remedy = "the parts are laid out in another order: check heads, parts of fused weights, and rotary pairs"
        yield cause_at(target, source, "order", text, remedy)
    elif target.name.rstrip("_") != source.name.rstrip("_"):
        text = f"at this place the model runs {operation_words(target)}, the source {operation_words(source)}"
        yield cause_at(target, source, "structure", text, "build the model with what the source does")
    elif _works_on_another_value(matches, target, source):
        text = f"{operation_words(target)} works on another value than {operation_words(source)} of the source"
        remedy = "compare the order of layers: the step stands in another place"
        yield cause_at(target, source, "structure", text, remedy)
    elif target.settings == source.settings and _takes_the_same_entries(matches, target, source):
        text = f"{operation_words(target)} takes the same entries as {operation_words(source)} of the source, in another order"
        remedy = (
            "compare how they are laid out before: heads or parts of a fused layer, groups of channels, transposed axes"
        )
        yield cause_at(target, source, "order", text, remedy)


def _other_weights(
    matches: Matches, target: Operation, source: Operation, fed_by: Callable[[str], Collection[str]]
) -> Iterator[Cause]:
    """Yield weights that enter into operations of one kind on the same value: on one side alone, such as a bias, or others."""
    if family(target.name) != family(source.name) or _works_on_another_value(matches, target, source):
        return
    used = [
        [recording.values[n].weights for n in op.inputs if recording.values[n].weights]
        for op, recording in ((target, matches.target), (source, matches.source))
    ]
    ours, theirs = (tuple(", ".join(names) for names in one) for one in used)
    if not ours or not theirs:
        return
    text = f"{operation_words(target)} uses {' and '.join(ours)}, in the source {' and '.join(theirs)}"
    if len(ours) != len(theirs):
        remedy = (
            f"build the model {'with' if len(ours) < len(theirs) else 'without'} the weight that makes the difference"
        )
        yield cause_at(target, source, "structure", text, remedy, (ours, theirs))
        return
    planned = {key for names in used[0] for name in names for key in fed_by(name)}
    if planned and planned.isdisjoint(name for names in used[1] for name in names):
        remedy = "compare the order of layers: at this place the source has another one"
        yield cause_at(target, source, "structure", text, remedy, (ours, theirs))


def _multiples(matches: Matches, target: Operation, source: Operation) -> Iterator[Cause]:
    """Yield an input that is the source's at the same place times a number."""
    if family(target.name) != family(source.name) or len(target.inputs) != len(source.inputs):
        return
    for number, other in zip(target.inputs, source.inputs, strict=True):
        ours, theirs = matches.target.values[number], matches.source.values[other]
        if number in matches.source_of or not (ours.live and theirs.live and ours.fingerprint and theirs.fingerprint):
            continue
        times = ours.fingerprint.multiple_of(theirs.fingerprint)
        if times is None:
            continue
        made = f", out of {operation_words(matches.target.operations[ours.op])}" if ours.op >= 0 else ""
        text = f"{operation_words(target)} takes a value that is {times:.4g} times that of the source{made}"
        yield cause_at(target, source, "scale", text, f"make it {1 / times:.4g} times what it is", (times, 1.0))


def _takes_the_same_entries(matches: Matches, target: Operation, source: Operation) -> bool:
    pairs = list(zip(target.inputs, source.inputs, strict=False))
    live = [(a, b) for a, b in pairs if matches.target.values[a].live]
    return len(target.inputs) == len(source.inputs) and all(b in matches.source_of.get(a, ()) for a, b in live)


def _works_on_another_value(matches: Matches, target: Operation, source: Operation) -> bool:
    activations = {n for n in source.inputs if matches.source.values[n].live}
    return any(
        matches.target.values[n].live and n in matches.source_of and activations.isdisjoint(matches.source_of[n])
        for n in target.inputs
    )


def _settings_words(op: Operation) -> str:
    return ", ".join(f"{k}={v}" for k, v in op.settings.items())


def _without_counterpart(matches: Matches, point: DivergencePoint) -> Cause:
    remedy = "compare how the two are built"
    if point.target is not None:
        op = matches.target.operations[point.target]
        text = f"the model does {operation_words(op)}, which the source has nothing like"
        return Cause(kind="structure", text=text, module=op.module, remedy=remedy)
    op = matches.source.operations[point.source or 0]
    text = f"the source does {operation_words(op)}, which the model leaves out"
    return Cause(kind="structure", text=text, source_module=op.module, remedy=remedy)
