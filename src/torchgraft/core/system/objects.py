"""Small objects by the hundred thousand: the garbage collector paused meanwhile, and frozen ones made at the cost of plain ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, field, fields, make_dataclass
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
    """Return what makes of the same arguments what `kind` makes, a frozen dataclass with slots, several times as fast.

    A frozen dataclass sets every field through `object.__setattr__`, several times as slow as an assignment. So a twin is
    made, of the same fields and slots and not frozen, which becomes one of `kind` once its fields are set. Where a twin
    can't become one of `kind`, `kind` itself is the answer.
    """
    made: Any = kind
    own = fields(made)
    if any(one.default_factory is not MISSING for one in own):
        return kind
    look = getattr(kind, "__post_init__", None)

    def become(self: object) -> None:
        self.__class__ = made
        if look is not None:
            look(self)

    given = [(one.name, one.type, field(default=one.default, init=one.init, kw_only=one.kw_only)) for one in own]
    twin: Any = make_dataclass(made.__name__, given, namespace={"__post_init__": become}, slots=True)
    try:
        object.__new__(twin).__class__ = made
    except TypeError:  # no slots, or an interpreter that doesn't let objects change their class
        return kind
    return cast("Callable[P, T]", twin)
