"""Changes that can be taken back in any order: what was changed twice is as before only when both are taken back."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Place = tuple[int, str]
_MADE: dict[Place, list[weakref.ref[Change]]] = {}


class Change:
    """One property of one object, changed: what it was before, and how to put that back.

    The object stays alive as long as the change. One that is dropped without being undone is no change any more: its
    property stays as it is, and the others don't wait for it.
    """

    __slots__ = ("__weakref__", "_before", "_owner", "_place", "_put_back")

    def __init__(self, owner: object, name: str, before: Any, put_back: Callable[[Any], None]) -> None:
        self._owner = owner
        self._before = before
        self._put_back = put_back
        self._place = (id(owner), name)
        _MADE.setdefault(self._place, []).append(weakref.ref(self, partial(_forget, self._place)))

    def undo(self) -> None:
        """Put back what was there before, or let the next later change of the same property do that; once."""
        made = [change for ref in _MADE.get(self._place, ()) if (change := ref()) is not None]
        at = next((n for n, change in enumerate(made) if change is self), None)
        if at is None:
            return
        _MADE[self._place] = [ref for ref in _MADE[self._place] if ref() is not self]
        if at + 1 < len(made):
            made[at + 1]._before = self._before  # noqa: SLF001  # one of its kind
        else:
            self._put_back(self._before)


def _forget(place: Place, ref: weakref.ref[Change]) -> None:
    left = [other for other in _MADE.get(place, ()) if other is not ref]
    if left:
        _MADE[place] = left
    else:
        _MADE.pop(place, None)
