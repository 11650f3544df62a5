"""What happened: the plan that was carried out, the checks made on the result, and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchgraft.core.plan import Plan
from torchgraft.core.shown import Renderers, Shown


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison after writing: its name, whether it held, and the figures."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Wall seconds of planning and of applying, bytes read and written, and the transaction's extra peak in bytes."""

    plan_seconds: float = 0.0
    apply_seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0
    undo_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Tensors that are views of the file (`mmap=True`), and how many have memory of their own for each reason.

    Their values were not looked at: they are read when they are used, or, where `prefaulted`, are in memory as the file's
    pages. The file must stay as it is meanwhile.
    """

    slots: tuple[str, ...]
    nbytes: int
    prefaulted: bool = False
    owned: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report(Shown):
    """What `load` did. `str(report)` is the terminal text, `to_dict()` the documented JSON, `to_html()` a page."""

    plan: Plan
    checks: tuple[Check, ...] = ()
    cost: Cost = Cost()
    initialised: tuple[str, ...] = ()
    mapped: Mapped | None = None
    renderers: Renderers | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Saved(Shown):
    """A checkpoint that was written.

    `path` opens it: the file, or the index of its shards. `files` are those that hold tensors. `tensors` and `nbytes`
    count what is stored; `shared` maps further names to the stored one. `network` is the container path that was
    converted, `left_out` those of networks that the caller chose to leave behind; `notes` are remarks worth a line.
    """

    path: str
    format: str
    tensors: int
    nbytes: int
    shared: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    origin: str = ""
    network: str = ""
    cast: int = 0
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    renderers: Renderers | None = field(default=None, repr=False, compare=False)
