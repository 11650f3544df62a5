"""Arguments of one call that contradict each other: two of them say different things of one tensor of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.names import covers
from torchgraft.core.specs import Slot

if TYPE_CHECKING:
    from torchgraft.request import Request

# Keywords by what they decide: of one tensor two of a group can't both hold.
_START, _ROWS = ("fresh", "zero", "init"), ("permute", "axis_names", "grow_rows")


def expect_consistent(request: Request, slots: Sequence[Slot]) -> None:
    """Refuse a request of which two arguments contradict each other about one of the model's `slots`.

    A pattern of `fresh` or `zero` may leave exceptions to a rule that fills more: it contradicts a rule only where it covers
    all of the place that the rule names.

    Raises:
        UsageError: naming both arguments with their patterns.
    """
    rules, options = request.rules, request.options
    said: dict[str, Iterable[str]] = {
        "fresh": rules.fresh,
        "zero": rules.zero,
        "init": options.init,
        "permute": options.permute,
        "axis_names": options.axis_names,
        "grow_rows": options.grow_rows,
    }
    for group, remedy in ((_START, "a tensor starts in one way"), (_ROWS, "its rows are moved in one way")):
        given = [(keyword, pattern) for keyword in group for pattern in said[keyword]]
        if len({keyword for keyword, _ in given}) > 1:
            _expect_one(given, slots, remedy)
    kept = [(keyword, pattern) for keyword in ("fresh", "zero") for pattern in said[keyword]]
    for keyword, rule, place in _filled_places(request) if kept else ():
        for start, pattern in kept:
            if covers(pattern, place):
                raise _contradiction(f"{keyword}={rule}", f"{start}={pattern!r}", place, "it is filled, or it isn't")


def _expect_one(given: Sequence[tuple[str, str]], slots: Sequence[Slot], remedy: str) -> None:
    for slot in slots:
        found: dict[str, str] = {}
        for keyword, pattern in given:
            if keyword not in found and any(covers(pattern, name) for name in slot.names):
                found[keyword] = pattern
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise _contradiction(f"{one}={first!r}", f"{other}={second!r}", slot.name, remedy)


def _filled_places(request: Request) -> Iterator[tuple[str, str, str]]:
    """Yield (keyword, rule in words, place in the model) of each rule that names a place to be filled."""
    rules = request.rules
    targets = [("rename", old, new) for old, new in rules.rename.items()]
    targets += [("fan_out", old, place) for old, places in rules.fan_out.items() for place in places]
    targets += [("copies", old, new) for old, new in rules.copies.items()]
    for keyword, old, place in targets:
        if place.strip(".") and not {"{", "*"} & {*place}:
            yield keyword, f"{{{old!r}: {place!r}}}", place.rstrip(".")
    for path, place in rules.picked_places():
        yield "layers", f"{{{path!r}: ...}}", place


def _contradiction(one: str, other: str, place: str, why: str) -> UsageError:
    return UsageError(
        f"{printable(one)} and {printable(other)} contradict each other about {printable(place)}: {why}; take it out of "
        "one of them"
    )
