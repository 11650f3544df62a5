"""Frozen objects made by the hundred thousand, at the cost of plain ones."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P = ParamSpec("P")
T = TypeVar("T")


def maker(kind: Callable[P, T]) -> Callable[P, T]:
    """Return a function that makes what `kind`, a frozen dataclass with slots, makes of the same arguments, sooner.

    A frozen dataclass sets every field through `object.__setattr__`, several times as slow as an assignment. Here the
    fields of a twin are assigned, a class of the same slots that is not frozen, and the twin becomes one of `kind`. The
    code is written out for each kind, as that of dataclasses is. Where a twin can't become one of `kind`, `kind` itself
    is the answer.
    """
    own: list[Any] = [field for field in fields(cast("Any", kind)) if field.init]
    slots = getattr(kind, "__slots__", None)
    twin = type("Twin", (), {"__slots__": slots or ()})
    try:
        twin().__class__ = cast("type[Any]", kind)
    except TypeError:  # no slots, or an interpreter that doesn't let objects change their class
        return kind
    if any(field.default_factory is not MISSING for field in own):
        return kind
    lines = [
        f"def make({_parameters(own)}):",
        "    self = _new(_twin)",
        *(f"    self.{field.name} = {field.name}" for field in own),
        "    self.__class__ = _kind",
        *(["    self.__post_init__()"] if hasattr(kind, "__post_init__") else []),
        "    return self",
    ]
    known = {f"_{field.name}_": field.default for field in own}
    known |= {"_new": object.__new__, "_twin": twin, "_kind": kind}
    exec("\n".join(lines), known)  # noqa: S102  # the text is made of the names of fields alone
    made: Callable[P, T] = known["make"]
    return made


def _parameters(own: Sequence[Any]) -> str:
    """Return the parameters of a function that takes these fields as their class does."""
    texts = {f.name: f.name if f.default is MISSING else f"{f.name}=_{f.name}_" for f in own}
    named = [texts[field.name] for field in own if field.kw_only]
    return ", ".join([*(texts[f.name] for f in own if not f.kw_only), *(["*", *named] if named else [])])
