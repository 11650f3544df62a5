"""Values of a checkpoint that look wrong, judged by the file alone. Each rule is one function, listed in `RULES`.

None of them is proof: models exist for which each is as it should be. So they are reported on request, as warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod, sqrt
from statistics import median

from torchgraft.core.formatting import listed
from torchgraft.core.names import template, words
from torchgraft.core.objections import Objection
from torchgraft.core.plan import Plan
from torchgraft.core.results.inspection import Moments, Statistics, Suspicion
from torchgraft.core.specs import Network, Shape, Source
from torchgraft.verifying.values.moments import measure_moments

Tensors = Mapping[str, Moments]
Shapes = Mapping[str, Shape]
Rule = Callable[[Tensors, Shapes], Iterator[Suspicion]]

# What torch's batch norms and other libraries call them.
VARIANCE_NAMES = frozenset({"running_var", "moving_variance"})
NORM_WEIGHT_NAMES = frozenset({"weight", "gamma", "scale"})
NORM_WORDS = frozenset({"norm", "bn", "ln", "layernorm", "batchnorm", "groupnorm", "rmsnorm"})
# A scale is reported if it is this many times larger or smaller than those of similar tensors: 1.5 orders of magnitude.
FAR_FACTOR = 30.0
MIN_SIMILAR = 4
# A table may have a row of zeros on purpose: torch's padding_idx. Short tables of rows are no vocabularies.
LONG_TABLE = 64
MIN_ROWS = 8
MIN_ELEMENTS = 1024


def find_suspicions(
    source: Source, network: Network, names: Iterable[str], progress: Callable[[int, int], None] | None = None
) -> Statistics:
    """Return the figures of these tensors of `network`, and what looks wrong about them. Reads every value once.

    `progress` is called with bytes done and in all.

    Raises:
        CheckpointError: a tensor can't be read.
    """
    tensors = measure_moments(source, network, names, progress)
    shapes = {name: network.specs[name].shape for name in tensors}
    return Statistics(tensors=tensors, suspicions=tuple(s for rule in RULES for s in rule(tensors, shapes)))


def with_suspicions(made: Plan, source: Source) -> Plan:
    """Return the plan with what looks wrong about the values that it would load, as objections of kind "suspect"."""
    fed = {(feed.network, feed.key): None for step in made.steps for feed in step.feeds}
    found: list[Suspicion] = []
    for network in source.networks:
        names = [key for path, key in fed if path == network.path]
        found += find_suspicions(source, network, names).suspicions if names else ()
    more = tuple(Objection("suspect", s.text, s.names) for s in found if s.rule != "nonfinite")
    return replace(made, objections=(*made.objections, *more))


def _not_finite(tensors: Tensors, _: Shapes) -> Iterator[Suspicion]:
    names = [name for name, m in tensors.items() if m.odd]
    if names:
        count = sum(tensors[name].odd for name in names)
        text = f"{count} values of {listed(names)} are NaN or infinite: training diverged, or the file is damaged"
        yield Suspicion(rule="nonfinite", text=text, names=tuple(names))


def _variances(tensors: Tensors, _: Shapes) -> Iterator[Suspicion]:
    """A variance is a mean of squares. Exactly zero is what a channel leaves that never had an input."""
    for name, m in tensors.items():
        if _role(name) not in VARIANCE_NAMES or not m.below:
            continue
        what = "negative or zero" if m.least < 0 else "zero"
        text = (
            f"{m.below} of {m.numel} values of {name} are {what} (least {m.least:.3g}): the layer divides by their root"
        )
        yield Suspicion(rule="variance", text=text, names=(name,))


def _norm_weights(tensors: Tensors, shapes: Shapes) -> Iterator[Suspicion]:
    """A norm multiplies by its weight: weights around zero switch its branch off, unless the model adds one itself."""
    near = [n for n in tensors if _is_norm_weight(n, shapes, tensors) and _around_zero(tensors[n])]
    zero = [n for n in near if tensors[n].largest == 0]
    if zero:
        text = f"{_norms_are(zero)} all zero: {listed(zero)}; what passes through is switched off"
        yield Suspicion(rule="norm weights", text=text, names=tuple(zero))
    centred = [n for n in near if tensors[n].largest > 0]
    if centred:
        mean = median(tensors[n].mean for n in centred)
        text = (
            f"{_norms_are(centred)} centred on 0 (mean {mean:.2g}) and not on 1: {listed(centred)}; usual only for models "
            "that add 1 to them"
        )
        yield Suspicion(rule="norm weights", text=text, names=tuple(centred))


def _around_zero(m: Moments) -> bool:
    return m.numel >= MIN_ROWS and abs(m.mean) < 0.1 and (m.largest < 0.5 or abs(m.mean) < 0.25 * m.std)


def _norms_are(names: list[str]) -> str:
    return f"the weights of {len(names)} norms are" if len(names) > 1 else "the weights of a norm are"


def _untrained(tensors: Tensors, shapes: Shapes) -> Iterator[Suspicion]:
    """Weights whose distribution is that of a common initialisation, to within what chance allows."""
    matrices = [n for n, m in tensors.items() if len(shapes[n]) > 1 and m.numel >= MIN_ELEMENTS and not m.constant]
    untrained = {n: how for n in matrices if (how := _initialisation(tensors[n], shapes[n]))}
    norms = [n for n in tensors if _is_norm_weight(n, shapes, tensors)]
    ones = [n for n in norms if tensors[n].constant and tensors[n].least == 1]
    if not untrained:
        return
    if len(untrained) >= 0.9 * len(matrices) and len(ones) >= 0.9 * len(norms):
        about_norms = f", and {len(ones)} of {len(norms)} norms have weights of exactly 1" if norms else ""
        how = ", ".join(dict.fromkeys(untrained.values()))
        text = (
            f"{len(untrained)} of {len(matrices)} weights look as initialisation leaves them ({how}){about_norms}: "
            "was this saved before any training?"
        )
        yield Suspicion(rule="initial", text=text, names=tuple(untrained))
        return
    for how in dict.fromkeys(untrained.values()):
        names = [n for n, h in untrained.items() if h == how]
        text = f"{listed(names)} {'look' if len(names) > 1 else 'looks'} as initialisation leaves it ({how}), unlike the rest"
        yield Suspicion(rule="initial", text=text, names=tuple(names))


def _initialisation(m: Moments, shape: Shape) -> str:
    """Return which common initialisation a weight's distribution is that of, "" if none.

    torch's Linear and convolutions draw from U(-b, b) with b = 1 / sqrt(fan in); Glorot and Bengio (2010) with
    b = sqrt(6 / (fan in + fan out)); most transformers from N(0, 0.02), cut off at 0.04 or not. The bound of a uniform
    distribution is met closely and never passed; deviation and kurtosis are met within four standard errors.
    """
    space = prod(shape[2:])
    fan_in, fan_out = shape[1] * space, shape[0] * space
    near = 4 / sqrt(m.numel)
    uniform = abs(m.kurtosis - 1.8) < 1.8 * near and abs(m.mean) < near * m.std
    for bound, name in ((1 / sqrt(fan_in), "torch's default"), (sqrt(6 / (fan_in + fan_out)), "Glorot's uniform one")):
        met = 1 - 20 / m.numel <= m.largest / bound <= 1 + 1e-2 / 4
        if uniform and met and abs(m.std / bound * sqrt(3) - 1) < near:
            return name
    normal = abs(m.kurtosis - 3) < 5 * near and abs(m.mean) < near * m.std
    if normal and abs(m.std / 0.02 - 1) < near:
        return "normal with deviation 0.02"
    cut = abs(m.kurtosis - 2.36) < 5 * near and abs(m.mean) < near * m.std
    if cut and m.largest <= 0.0401 and abs(m.std / 0.0176 - 1) < near:
        return "normal with deviation 0.02, cut off at 0.04"
    return ""


def _scales(tensors: Tensors, shapes: Shapes) -> Iterator[Suspicion]:
    """Layers of one kind have scales of one order; one that is far off was hurt on its way, or never trained."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name, m in tensors.items():
        stem, numbers = template(name)
        if numbers and len(shapes[name]) > 1 and m.rms > 0 and not m.odd:
            groups.setdefault((stem, len(shapes[name])), []).append(name)
    for names in groups.values():
        if len(names) < MIN_SIMILAR:
            continue
        usual = median(tensors[n].rms for n in names)
        for name in names:
            ratio = tensors[name].rms / usual
            if ratio > FAR_FACTOR or ratio < 1 / FAR_FACTOR:
                more = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
                text = (
                    f"{name} has a root mean square of {tensors[name].rms:.3g}, {more} the {usual:.3g} that is usual "
                    f"for the {len(names)} tensors of its kind"
                )
                yield Suspicion(rule="scale", text=text, names=(name,))


def _rows(tensors: Tensors, shapes: Shapes) -> Iterator[Suspicion]:
    """Rows of a weight are units: one that is zero, or a single value, has nothing to tell apart."""
    for name, m in tensors.items():
        shape = shapes[name]
        wide = prod(shape[1:]) > 1 if len(shape) > 1 else False
        if not wide or m.rows < MIN_ROWS:
            continue
        if m.constant:
            yield Suspicion(rule="constant", text=f"all {m.numel} values of {name} are {m.least:g}", names=(name,))
            continue
        zero, even = m.zero_rows, m.even_rows - m.zero_rows
        if zero > (1 if m.rows >= LONG_TABLE else 0):
            text = f"{zero} of the {m.rows} rows of {name} are zero throughout: dead or pruned units, or padding"
            yield Suspicion(rule="rows", text=text, names=(name,))
        if even:
            text = f"{even} of the {m.rows} rows of {name} are one value throughout"
            yield Suspicion(rule="rows", text=text, names=(name,))


RULES: tuple[Rule, ...] = (_not_finite, _variances, _norm_weights, _untrained, _scales, _rows)


def _role(name: str) -> str:
    return name.rpartition(".")[2]


def _is_norm_weight(name: str, shapes: Shapes, tensors: Tensors) -> bool:
    """Whether this is the weight of a norm: one value a channel, with a bias of its size, a variance or a norm's name."""
    owner, _, role = name.rpartition(".")
    if role not in NORM_WEIGHT_NAMES or len(shapes[name]) != 1:
        return False
    called = any(word in NORM_WORDS for segment in owner.split(".")[-2:] for word in words(segment))
    paired = any(shapes.get(f"{owner}.{bias}") == shapes[name] for bias in ("bias", "beta"))
    return called or paired or any(f"{owner}.{var}" in tensors for var in VARIANCE_NAMES)
