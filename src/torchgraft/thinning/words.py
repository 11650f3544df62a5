"""Texts about a member of a run, as texts about any of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torchgraft.thinning.places import Level, Part, Place, UnevenError
from torchgraft.thinning.runs import is_number

# A name, as it may stand in a text; a dot or colon behind it is none of it.
_NAME = re.compile(r"\w[\w-]*(?:\.[\w-]+)*")
_NUMBER = re.compile(r"[0-9]$")
_SHARE = re.compile(r"\d+%")


@dataclass(frozen=True, slots=True)
class Template:
    """A text, cut where numbers of the member stand that it is about; there is one piece more than such `levels`."""

    pieces: tuple[str, ...]
    levels: tuple[Level, ...] = ()

    def of(self, at: Sequence[int]) -> str:
        """Return the text about the member that has these indices in the runs around it."""
        if not self.levels:
            return self.pieces[0]
        first, *others = self.pieces
        return first + "".join([run[at[n]] + piece for (n, run), piece in zip(self.levels, others, strict=True)])

    @property
    def gist(self) -> tuple[object, ...]:
        """What texts have in common that say the same, up to figures of how much was compared."""
        return (self.levels, *[_SHARE.sub("%", piece) for piece in self.pieces])


def template_of(place: Place) -> Template:
    """Return the name of a place as that of any member."""
    return Template(place.pieces, tuple(map(Level, range(len(place.runs)), place.runs)))


class Words:
    """What names in texts mean: `sides` are the places of all names, `own` are the tensors that a text is about, on either side."""

    def __init__(self, sides: Sequence[Mapping[str, Place]], own: Mapping[str, Place]) -> None:
        self._sides = sides
        self._own = own

    def template(self, text: str) -> Template:
        """Return the text as one about any member.

        Raises:
            UnevenError: it has a numbered name that means nothing, or several.
        """
        parts: list[Part] = []
        end = 0
        for found in _NAME.finditer(text):
            parts += [text[end : found.start()], *self._named(found[0])]
            end = found.end()
        return _joined([*parts, text[end:]])

    def _named(self, name: str) -> list[Part]:
        """Return a name, cut at the numbers of the member that the text is about; numbers of others are as they were."""
        segments = name.split(".")
        if name.isdecimal() or not any(_NUMBER.search(one) for one in segments):
            return [name]  # a number alone may count anything: where it is a member's, they don't say the same
        for start, stop in _stretches(segments):
            found = self._readings(segments[start:stop], is_whole=not start)
            if any(one != found[0] for one in found):
                raise UnevenError(f"{name} means several")
            if found:
                return _dotted([*([one] for one in segments[:start]), found[0], *([one] for one in segments[stop:])])
        if "." in name and any(map(is_number, segments)):
            raise UnevenError(f"{name} means nothing")
        return [name]

    def _readings(self, segments: Sequence[str], *, is_whole: bool) -> list[list[Part]]:
        """Return what these segments mean: a path, or a piece of one's own name."""
        name = ".".join(segments)
        paths = [self._path(side[name]) for side in self._sides if name in side] if is_whole else []
        return paths or [one for own, place in self._own.items() for one in _inside(segments, own, place)]

    def _path(self, place: Place) -> list[Part]:
        around = any(place.is_around(own) for own in self._own.values())
        return _dotted(place.segments()) if around else [place.name]


def _stretches(segments: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield from where to where a name may be one of the file or the model, the longest first; all numbers are inside.

    Matching tells tensors by names that no side has, such as those of parts of a fused one, or behind another prefix.
    """
    numbered = [at for at, one in enumerate(segments) if _NUMBER.search(one)]
    return ((start, stop) for start in range(numbered[0] + 1) for stop in range(len(segments), numbered[-1], -1))


def _inside(wanted: Sequence[str], own: str, place: Place) -> list[list[Part]]:
    """Return what a piece of one's own name means."""
    held, segments, size = own.split("."), place.segments(), len(wanted)
    starts = [at for at in range(len(held) - size + 1) if held[at : at + size] == wanted]
    return [_dotted(segments[at : at + size]) for at in starts]


def _dotted(segments: Sequence[Sequence[Part]]) -> list[Part]:
    parts: list[Part] = []
    for segment in segments:
        parts += [".", *segment] if parts else segment
    return parts


def _joined(parts: Sequence[Part]) -> Template:
    pieces = [""]
    levels = []
    for part in parts:
        if isinstance(part, Level):
            levels.append(part)
            pieces.append("")
        else:
            pieces[-1] += part
    return Template(tuple(pieces), tuple(levels))
