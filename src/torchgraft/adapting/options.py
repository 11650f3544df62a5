"""Facts about axes that only the caller knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import TYPE_CHECKING, TypeVar, get_args

from torchgraft.core.choices import NewIndices, is_one_of, listed_words
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import did_you_mean
from torchgraft.core.match import Leaf
from torchgraft.core.names import covers
from torchgraft.core.specs import Slot

if TYPE_CHECKING:
    Grid = tuple[int, int]
    Names = Sequence[str] | Sequence[int] | Mapping[str, int]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AxisNames:
    """What the indices along one axis are called on both sides: classes, tokens, speakers, input channels.

    Args:
        source: the file's names in order (numbers will do: `range(1000)` where indices keep theirs), or, as tokenizers
            give them, a dict from name to index (which may leave out indices: padding).
        target: the model's, likewise.
        dim: the axis: 0 for rows (classes, tokens), 1 for input channels and columns.
        each: how many indices in a row belong to one name: 4 for boxes per class.
        new: what becomes of the model's indices without a name in the file: "fresh" (they keep the model's values),
            "zero", or "mean" (of all of the file's).

    Raises:
        UsageError: a name comes twice, or an argument makes no sense.
    """

    source: Names
    target: Names
    dim: int = field(default=0, kw_only=True)
    each: int = field(default=1, kw_only=True)
    new: NewIndices = field(default="fresh", kw_only=True)

    def __post_init__(self) -> None:
        for side in ("source", "target"):
            object.__setattr__(self, side, _checked(side, getattr(self, side)))
        if not (_is_count(self.dim, 0) and _is_count(self.each, 1)):
            raise UsageError(
                f"AxisNames: dim={self.dim!r:.80}, each={self.each!r:.80}: use an axis from 0, and 1 index or more a name"
            )
        if not is_one_of(words := get_args(NewIndices), self.new):
            raise UsageError(f"AxisNames: new={self.new!r:.80}: {listed_words(words)}")
        if self.new == "mean" and self.each > 1:
            raise UsageError(
                "AxisNames: new='mean' with each > 1 would mix indices of other meaning; use 'fresh' or 'zero'"
            )

    @staticmethod
    def places(names: Names) -> Mapping[str, int]:
        """Return the place of each name."""
        return names if isinstance(names, Mapping) else {str(name): at for at, name in enumerate(names)}

    def size(self, names: Names) -> int:
        """Return how many indices the names of one side stand for (of a dict: at least)."""
        return self.each * (max(names.values(), default=-1) + 1 if isinstance(names, Mapping) else len(names))


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _checked(side: str, names: Names) -> tuple[str, ...] | dict[str, int]:
    """Return a copy of the names that a caller gave for one side."""
    if isinstance(names, Mapping):
        places = list(names.values())
        if not all(_is_count(at, 0) for at in places) or len(set(places)) < len(places):
            raise UsageError(f"names of the {side}: two names stand for one index, or an index is no number from 0")
        return dict(names)
    try:
        names = tuple(map(str, names))
    except TypeError as error:
        what = "give a list of names, or a dictionary from name to index"
        raise UsageError(f"names of the {side}: {what}, not {names!r:.80}") from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"names of the {side}: {', '.join(map(repr, twice[:4]))} more than once")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What axes mean where tensors can't tell.

    grow_rows: tables that may grow at their end, and how new rows start: fresh, zero or mean; old ones are copied.
    axis_names: indices follow names, by pattern of slot names. in_channels: rule for further input channels by slot name.
    kernels: how kernels of another size are resized, by pattern of slot names: resample, pad or crop.
    grids: source and target grid (height, width) of a position table by slot name.
    permute: order of dimensions by pattern of slot names.
    merge_lora: add low-rank adapters to the model's weights; a number is their scale where the file holds no alpha.
    fold_norms: fold the file's batch norms into the layers before them; a number is their eps.
    init: start of added layers by pattern: "identity", "zero" or "zero-gamma".
    fuse_branches: fuse parallel training branches into the model's single convolutions; a number is the eps of their norms.
    """

    grow_rows: Mapping[str, str] = field(default_factory=dict)
    axis_names: Mapping[str, AxisNames] = field(default_factory=dict)
    in_channels: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    grids: Mapping[str, tuple[Grid, Grid]] = field(default_factory=dict)
    permute: Mapping[str, Sequence[int]] = field(default_factory=dict)
    merge_lora: bool | float = False
    fuse_branches: bool | float = False
    fold_norms: bool | float = False
    init: Mapping[str, str] = field(default_factory=dict)

    def check(self, slots: Sequence[Slot]) -> None:
        """Raise UsageError where something is said of a tensor that is not among `slots`, all those of the model.

        Raises:
            UsageError: naming the pattern, and names that come close to it.
        """
        for option in fields(self):
            table = getattr(self, option.name)
            for pattern in table if isinstance(table, Mapping) else ():
                if not _covered(pattern, slots):
                    raise UsageError(
                        f"{option.name}: no tensor of the model is called {printable(pattern)!r}{_hint(pattern, slots)}"
                    )
        for pattern, axis in self.axis_names.items():
            most = max(len(slot.spec.shape) for slot in _covered(pattern, slots))
            if axis.dim >= most:
                raise UsageError(
                    f"axis_names={{{pattern!r}: ...}}: dim={axis.dim} is none of the {most} axes of what it covers; axes "
                    "count from 0"
                )
        for pattern, dims in self.permute.items():
            found = _covered(pattern, slots)
            if not any(len(slot.spec.shape) == len(dims) for slot in found):
                shown = f"{printable(found[0].name)} {list(found[0].spec.shape)}"
                raise UsageError(
                    f"permute={{{pattern!r}: {tuple(dims)}}}: an order of {len(dims)} axes is none for {shown}"
                )


def _covered(pattern: str, slots: Sequence[Slot]) -> list[Slot]:
    return [slot for slot in slots if any(covers(pattern, name) for name in slot.names)]


def _hint(pattern: str, slots: Sequence[Slot]) -> str:
    names = [name for slot in slots for name in slot.names]
    return did_you_mean(pattern, [*names, *(module for name in names if (module := name.rpartition(".")[0]))])


def option_for(table: Mapping[str, T], target: Leaf) -> T | None:
    """Return the value of the first pattern that covers a tensor of the model by any of its names; None where none does."""
    if not table:
        return None
    called = (target.keys[0], target.name, *target.also)
    return next((said for pattern, said in table.items() if any(covers(pattern, name) for name in called)), None)
