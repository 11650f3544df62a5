"""Small objects by the hundred thousand: the garbage collector paused meanwhile, and frozen ones made at the cost of plain ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, ParamSpec, TypeVar, cast

# Fewer new objects than this are left to the collector: looking at them takes a fraction of a millisecond.
_MANY = 2_000
# After so many objects that went past it, in so many pauses (those of one large job are all in use), the collector
# looks at everything once: cycles among them are freed then.
_UNSEEN_AT_MOST = 2_000_000
_PAUSES = 16
# What Python 3.12 itself has frozen at its start, and more; who freezes on purpose freezes all there is, many times that.
_FROZEN_BY_PYTHON = 1_000
_unseen: list[int] = []


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector: a hundred thousand new objects would have it scan everything several times over.

    Where many were made, they go to the oldest generation at the end, through a freeze that is undone at once (unless
    somebody else has frozen something): else the next allocation would have the collector look at all of them. Such
    objects don't count towards its next full round, so that round is made here, after some pauses and two millions of objects.
    """
    running = gc.isenabled()
    try:
        gc.disable()
        before = gc.get_count()[0]
        yield
    finally:
        if running:
            made = gc.get_count()[0] - before
            if made > _MANY and gc.get_freeze_count() < _FROZEN_BY_PYTHON:
                _age(made)
            gc.enable()


def _age(made: int) -> None:
    gc.freeze()
    gc.unfreeze()
    _unseen.append(made)
    if len(_unseen) >= _PAUSES and sum(_unseen) > _UNSEEN_AT_MOST:
        gc.collect()
        _unseen.clear()


P = ParamSpec("P")
T = TypeVar("T")


def maker(kind: Callable[P, T]) -> Callable[P, T]:
    """Return a constructor of `kind`, a frozen dataclass with slots: the same arguments and result, several times as fast.

    A frozen dataclass sets every field through `object.__setattr__`, several times as slow as an assignment: a tenth of all the
    time that a plan for a hundred thousand tensors takes, and more of a load of them. So one function makes a twin, of the same
    slots and not frozen, sets its fields, and lets it become one of `kind`; it is written as text, as those of dataclasses are,
    for it has the fields' names. Where a twin can't become one of `kind`, `kind` itself is the answer.
    """
    made: Any = kind
    own = fields(made)
    if any(one.default_factory is not MISSING or not (one.init or one.default is MISSING) for one in own):
        return kind
    twin = type(made.__name__, (), {"__slots__": tuple(one.name for one in own)})
    try:
        object.__new__(twin).__class__ = made
    except TypeError:  # no slots, or an interpreter that doesn't let objects change their class
        return kind
    look = getattr(made, "__post_init__", None)
    known = {"NEW": object.__new__, "TWIN": twin, "MADE": made, "LOOK": look}  # no field is called so
    known |= {f"DEFAULT_{one.name}": one.default for one in own if one.default is not MISSING}
    given = {
        one.name: one.name if one.default is MISSING else f"{one.name}=DEFAULT_{one.name}" for one in own if one.init
    }
    named = [given[one.name] for one in own if one.init and one.kw_only]
    arguments = [*(text for text in given.values() if text not in named), *(["*"] if named else []), *named]
    lines = (
        f"def {made.__name__}({', '.join(arguments)}):",
        "self = NEW(TWIN)",
        *(f"self.{name} = {name}" for name in given),
        "self.__class__ = MADE",
        "LOOK(self)" if look else "",
        "return self",
    )
    exec("\n    ".join(lines), known)  # noqa: S102 - made of the names of a class's own fields
    return cast("Callable[P, T]", known[made.__name__])
