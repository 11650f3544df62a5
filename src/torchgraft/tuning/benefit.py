"""Did the load help? Trained with it and without it, on the same draws, several times, with an interval.

The third arm keeps of every loaded tensor how its values are spread, but not where they stand. A gain that it has as well
comes from the scale of the weights, not from what they learned (the "mean var" start of Raghu et al. 2019, "Transfusion:
Understanding Transfer Learning for Medical Imaging", arXiv 1902.07208, here with the values themselves).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from statistics import fmean, stdev
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import listed
from torchgraft.core.objects import a_kind
from torchgraft.core.places import is_module, places
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Report
from torchgraft.core.system.random_state import seeded
from torchgraft.core.types import Generator, Module, Tensor
from torchgraft.core.values import checksum, put_rows, rows_of
from torchgraft.tuning.fates import Fate, tensor_fates

Build = Callable[[], Module]
Fill = Callable[[Module], Report]
Train = Callable[[Module, Report | None], float]

SCRATCH, LOADED, SHUFFLED = "scratch", "loaded", "shuffled"
CONFIDENCE = 0.95
FEWEST_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and half the width of its 95 % interval (Student's t: the values are taken as draws of a normal)."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        width = self.half_width
        decimals = max(0, 1 - math.floor(math.log10(width))) if width > 0 else 3
        return f"{self.mean:+.{decimals}f} ± {width:.{decimals}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Benefit:
    """Scores of models that were trained alike from different starts; higher is better.

    `scores` maps "scratch", "loaded" and "shuffled" to one score for each of `seeds`. Within a seed all three had the
    same initial values where nothing was loaded, and the same random draws in training, so differences are taken seed
    by seed. `untrained` maps starts to the seeds with which training changed nothing in the model.
    """

    seeds: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    untrained: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def gain(self) -> Interval:
        """How much better the loaded start did than the one from scratch."""
        return self.over(SCRATCH)

    def over(self, start: str) -> Interval:
        """Return how much better the loaded start did than another one, seed by seed."""
        pairs = zip(self.scores[LOADED], self.scores[start], strict=True)
        return interval([loaded - other for loaded, other in pairs])

    @property
    def helped(self) -> bool | None:
        """Whether the load helped; None where these scores can't tell."""
        found = self.gain
        if found.low > 0:
            return True
        return False if found.high < 0 else None

    @property
    def verdict(self) -> str:
        """What the scores say, in a line."""
        if self.helped is None:
            return f"no difference can be told from {len(self.seeds)} seeds"
        if not self.helped:
            return "the load hurt"
        if self.over(SHUFFLED).low > 0:
            return "the load helped"
        return (
            "the load helped, perhaps by the scale of its values alone: no gain over these in random order can be told"
        )

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.gain} against scratch"]
        lines.append(f"  score of {len(self.seeds)} seeds, higher is better (± is half the {CONFIDENCE:.0%} interval)")
        for start in (LOADED, SCRATCH, SHUFFLED):
            scores = self.scores[start]
            better = "" if start == LOADED else f"; loaded {self.over(start)} against it"
            lines.append(f"  {start:9} {fmean(scores):8.4g}, from {min(scores):.4g} to {max(scores):.4g}{better}")
        if sum(map(len, self.untrained.values())) < len(self.scores) * len(self.seeds):
            lines += [
                f"  note: train left {start} as it was in {len(seeds)} of {len(self.seeds)} runs; if its data was used up by "
                "the runs before (an iterator), these scores tell nothing: begin anew in each call"
                for start, seeds in self.untrained.items()
            ]
        return "\n".join(lines)


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of two or more values and its 95 % interval."""
    from scipy.special import stdtrit

    t = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return Interval(fmean(values), t * stdev(values) / math.sqrt(len(values)))


def compare_starts(build: Build, fill: Fill, train: Train, seeds: Sequence[int]) -> Benefit:
    """Return what `train` scores on models of `build`: as they are, filled, and filled with values in random order.

    Random states of Python, numpy and torch are set from the seed before each build and each training, and put back at
    the end. In memory at one time: one model. The starts take turns in coming first, so that what runs leave to those after
    them (the position in a data set, say) favours none; a load that is refused is so before anything is trained.

    Raises:
        UsageError: too few seeds, a score that is no finite number, or a model that is the last one again, or that begins
            with other values than the others of its seed.
    """
    _require_functions(build=build, train=train)
    seeds = _checked_seeds(seeds)
    last: Callable[[], object] = lambda: None  # noqa: E731  # a weak reference is called, too
    scores: dict[str, list[float]] = {SCRATCH: [], LOADED: [], SHUFFLED: []}
    untrained: dict[str, tuple[int, ...]] = {}
    starts = (LOADED, SHUFFLED, SCRATCH)
    for number, seed in enumerate(seeds):
        first: dict[str, int] = {}
        turn = number % len(starts)
        for start in starts[turn:] + starts[:turn]:
            with seeded(seed) as reseed:
                model = build()
                if not is_module(model):
                    raise UsageError(f"build returns {a_kind(model)}: return an nn.Module")
                if model is last():
                    raise UsageError(
                        "build returns the same model again: make a new one at each call, or nothing is from scratch"
                    )
                last = weakref.ref(model)
                first = first or _checksums(model)
                _require_same_start(first, _checksums(model), seed)
                report = None if start == SCRATCH else fill(model)
                if report is not None and start == SHUFFLED:
                    shuffle_loaded(model, report, seed)
                before = _checksums(model)
                reseed()
                scores[start].append(_finite_score(train(model, report), start, seed))
                if _checksums(model) == before:
                    untrained[start] = (*untrained.get(start, ()), seed)
    return Benefit(seeds=seeds, scores={s: tuple(found) for s, found in scores.items()}, untrained=untrained)


def _checked_seeds(given: Iterable[int]) -> tuple[int, ...]:
    if isinstance(given, int):
        raise UsageError(f"seeds={given}: give a list of numbers, e.g. range({max(given, FEWEST_SEEDS)})")
    seeds: tuple[Any, ...] = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(seed, Integral) for seed in seeds):
        raise UsageError(f"seeds={given!r:.80}: give a list of whole numbers, e.g. range(5)")
    if not FEWEST_SEEDS <= len(set(seeds)) == len(seeds):
        raise UsageError(f"seeds={list(seeds)}: give {FEWEST_SEEDS} or more different ones; fewer tell nothing")
    return tuple(map(int, seeds))


def _checksums(model: Module) -> dict[str, int]:
    """Return a checksum of each tensor that a model begins with."""
    import torch
    from torch.nn.parameter import is_lazy

    tensors = {place.name: place.tensor for place in places(model) if place.tensor.layout is torch.strided}
    return {
        name: checksum(tensor)
        for name, tensor in tensors.items()
        if not (tensor.is_meta or is_lazy(tensor) or tensor.is_quantized)
    }


def _require_same_start(first: Mapping[str, int], now: Mapping[str, int], seed: int) -> None:
    others = [name for name in {**first, **now} if first.get(name) != now.get(name)]
    if others:
        raise UsageError(
            f"build gives {listed(others, 3)} other initial values in another call with the same seed, {seed}: it takes over "
            "what an earlier run has trained, or draws from a random state of its own; build all of the model anew, from the "
            "random state of torch, numpy or random"
        )


def _require_functions(**given: object) -> None:
    for name, function in given.items():
        if is_module(function) or not callable(function):
            raise UsageError(f"{name} is {a_kind(function)}: give a function")


def shuffle_loaded(model: Module, report: Report | Plan, seed: int) -> None:
    """Put the values of each loaded tensor of `model` in random order; of tensors filled in part, those of these rows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensor_fates(model, report).tensors:
            value = tensor.tensor.data
            if tensor.fate in (Fate.FRESH, Fate.CONSTANT) or not (value.is_floating_point() or value.is_complex()):
                continue
            put_rows(value, tensor.known, _shuffled(rows_of(value, tensor.known), generator))


def _shuffled(values: Tensor, generator: Generator) -> Tensor:
    import torch

    order = torch.randperm(values.numel(), generator=generator).to(values.device)
    return values.reshape(-1)[order].reshape(values.shape)


def _finite_score(score: object, start: str, seed: int) -> float:
    try:
        found = float(score.detach() if hasattr(score, "detach") else score)  # type: ignore[arg-type]  # numpy's, too
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"train returned {score!r} for the {start} start with seed {seed}: return one finite number")
    return found
