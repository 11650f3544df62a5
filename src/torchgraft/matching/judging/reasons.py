"""Why pairs are doubted: the reasons of the judge, and what the rules of the stages behind it are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torchgraft.core.plan import Doubt

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Rule(Generic[F]):
    """A rule of doubt: a function, whose name is the rule's, and its sentence, "" where the function finds one for each pair.

    Rules `of_values` don't ask which tensor is meant, and hold also where the caller says that.
    """

    function: F
    sentence: str = ""
    of_values: bool = False

    @property
    def name(self) -> str:
        """What the rule is called."""
        return self.function.__name__


BESIDE = Doubt(
    "adjoined", "a layer of the same shapes stays free beside it, and nothing in between tells which of them it was"
)
BY_ORDER = Doubt("by_order", "names don't say it, and layers of the same shapes could change places")
OTHER_NAME = Doubt("other_name", "its shape fits, its name doesn't")
NO_MARGIN = Doubt("no_margin", "another reading fits nearly as well")
