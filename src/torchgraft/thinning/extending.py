"""What a plan says of the few, said of all: each step and each fate once for every member that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from torchgraft.core.plan import Alternative, Certainty, Feed, Step, Unused, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.core.system.fast_objects import maker
from torchgraft.thinning.places import Place, UnevenError
from torchgraft.thinning.words import Template, Words, template_of

_make_step, _make_feed, _make_why = maker(Step), maker(Feed), maker(Why)


class Extension:
    """The plan of the few, put on all members of the runs; `files` and `models` are the places of names that stay."""

    def __init__(self, files: Mapping[str, Place], models: Mapping[str, Place]) -> None:
        self._files = files
        self._models = models

    def steps(self, few: Iterable[Step], slots: Sequence[Slot]) -> tuple[Step, ...]:
        """Return the step of each of the slots.

        Raises:
            UnevenError: steps for like members aren't alike, or one can't be said of others.
        """
        whole = {slot.name: slot for slot in slots}
        told = [(self._models[step.slot.name], self._step(step)) for step in few]
        made = {name: one.of(at, whole[name]) for at, name, one in _for_all(told)}
        return tuple([made[slot.name] for slot in slots])

    def unused(self, few: Iterable[Unused], specs: Mapping[str, TensorSpec]) -> tuple[Unused, ...]:
        """Return the fate of each tensor that feeds nothing.

        Raises:
            UnevenError: those of like members aren't alike, or one can't be said of others.
        """
        told = [(self._file(one.spec.name), self._fate(one)) for one in few]
        made = {name: one.of(at, specs[name]) for at, name, one in _for_all(told)}
        return tuple([made[name] for name in specs if name in made])

    def _file(self, key: str) -> Place:
        if key not in self._files:
            raise UnevenError(f"{key} is no tensor of the file")
        return self._files[key]

    def _step(self, step: Step) -> ToldStep:
        name = step.slot.name
        if step.certainty is Certainty.DOUBT or step.why.doubt:
            raise UnevenError(f"{name} is in doubt")
        own = self._models[name]
        fed = {feed.key: self._file(feed.key) for feed in step.feeds}
        if any(place.runs and (place.lengths, place.at) != (own.lengths, own.at) for place in fed.values()):
            raise UnevenError(f"{name} is fed by another member")
        words = Words((self._files, self._models), {name: own, **fed})
        return ToldStep(
            step,
            tuple(template_of(fed[feed.key]) for feed in step.feeds),
            Reason(words, step.why),
            tuple((tuple(map(words.template, one.keys)), words.template(one.text)) for one in step.alternatives),
        )

    def _fate(self, one: Unused) -> ToldFate:
        name = one.spec.name
        if one.why.doubt:
            raise UnevenError(f"{name} is in doubt")
        words = Words((self._files, self._models), {name: self._file(name)})
        same = (one.same_as,) if one.same_as else ()
        return ToldFate(
            one, Reason(words, one.why), tuple(map(words.template, one.similar)), tuple(map(words.template, same))
        )


class Reason:
    """A reason as given for any member; those for members of which it says the same are one."""

    def __init__(self, words: Words, why: Why) -> None:
        self._rule = why.rule
        self._texts = [words.template(text) for text in (why.text, *why.evidence)]
        self._levels = sorted({level for text in self._texts for level, _ in text.levels})
        self._made: dict[tuple[int, ...], Why] = {}

    @property
    def gist(self) -> object:
        """What the reasons of like members have in common."""
        return self._rule, self._texts[0].gist

    @property
    def ground(self) -> object:
        """What the evidence of members inside of a run has in common."""
        return [text.gist for text in self._texts[1:]]

    def of(self, at: Sequence[int]) -> Why:
        """Return the reason for the member that has these indices in its runs."""
        said = tuple([at[level] for level in self._levels])
        made = self._made.get(said)
        if made is None:
            text, *evidence = [one.of(at) for one in self._texts]
            made = self._made[said] = _make_why(self._rule, text, tuple(evidence))
        return made


@dataclass(frozen=True, slots=True)
class ToldStep:
    """A step, and what is said in it as said of any member."""

    step: Step
    keys: tuple[Template, ...]
    why: Reason
    alternatives: tuple[tuple[tuple[Template, ...], Template], ...]

    @property
    def gist(self) -> object:
        """What the steps of like members have in common; what else could feed them may differ."""
        step = self.step
        given = [(feed.ops, feed.network) for feed in step.feeds]
        return (given, step.ops, step.base, step.rows, step.made, step.certainty, step.quiet,
                self.keys, self.why.gist)  # fmt: skip

    def of(self, at: Sequence[int], slot: Slot) -> Step:
        """Return the step of the slot of the member that has these indices in its runs."""
        step = self.step
        return _make_step(
            slot=slot,
            feeds=tuple(
                [
                    _make_feed(key.of(at), feed.ops, feed.network)
                    for key, feed in zip(self.keys, step.feeds, strict=True)
                ]
            ),
            ops=step.ops,
            base=step.base,
            rows=step.rows,
            made=step.made,
            why=self.why.of(at),
            certainty=step.certainty,
            alternatives=tuple(
                [Alternative(tuple([k.of(at) for k in keys]), text.of(at)) for keys, text in self.alternatives]
            ),
            quiet=step.quiet,
        )


@dataclass(frozen=True, slots=True)
class ToldFate:
    """Why a tensor isn't used, as said of any member."""

    one: Unused
    why: Reason
    similar: tuple[Template, ...]
    same_as: tuple[Template, ...]

    @property
    def gist(self) -> object:
        """What the fates of like members have in common."""
        one = self.one
        return (
            one.network,
            one.quiet,
            self.why.gist,
            [text.gist for text in (*self.similar, *self.same_as)],
        )

    def of(self, at: Sequence[int], spec: TensorSpec) -> Unused:
        """Return the fate of the tensor of the member that has these indices in its runs."""
        return Unused(
            spec=spec,
            network=self.one.network,
            why=self.why.of(at),
            quiet=self.one.quiet,
            similar=tuple([name.of(at) for name in self.similar]),
            same_as="".join([name.of(at) for name in self.same_as]),
        )


T = TypeVar("T", ToldStep, ToldFate)


def _for_all(told: Sequence[tuple[Place, T]]) -> Iterator[tuple[tuple[int, ...], str, T]]:
    """Yield the indices and the name of each member, and what is said of it: at last of those that stay, by their own words.

    Raises:
        UnevenError: like members don't say the same.
    """
    for place, one in _of_one_voice(told):
        name = template_of(place)
        yield from ((at, name.of(at), one) for at in product(*map(range, place.lengths)))
    yield from ((place.at, place.name, one) for place, one in told if place.runs)


def _of_one_voice(told: Iterable[tuple[Place, T]]) -> Iterable[tuple[Place, T]]:
    """Return one of the members that say the same, for each place that they stand for.

    What stands at an end of a run may have other evidence for the same, such as a neighbour.
    """
    found: dict[object, tuple[Place, T]] = {}
    for place, one in told:
        known, before = found.setdefault((place.pieces, place.runs), (place, one))
        if before.gist != one.gist or (known.is_inside and place.is_inside and before.why.ground != one.why.ground):
            raise UnevenError(f"{place.name} is another case than others like it")
        if place.is_inside:
            found[place.pieces, place.runs] = place, one
    return found.values()
