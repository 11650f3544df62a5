"""All keyword arguments of plan() and load() as one checked request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torchgraft.adapting import ClassRows, Options
from torchgraft.core.errors import UsageError
from torchgraft.core.policy import Policy, Verdict
from torchgraft.matching import Rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ON_DOUBT = ("refuse", "skip", "take")
ACCEPT = ("certain", "likely")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All keyword arguments of plan() and load(), checked."""

    rules: Rules
    options: Options
    policy: Policy
    prefer: str | None = None
    on_doubt: str = "refuse"
    accept: str = "likely"
    tensor_parallel: Mapping[str, str] = field(default_factory=dict)
    source_model: object = None


def request(  # noqa: PLR0913  # the one list of the library's keyword arguments
    *,
    rename: Mapping[str, str] | None = None,
    fan_out: Mapping[str, Sequence[str]] | None = None,
    layers: Mapping[str, Sequence[int]] | None = None,
    copies: Mapping[str, str] | None = None,
    fresh: Sequence[str] = (),
    zero: Sequence[str] = (),
    prefer: str | None = None,
    on_doubt: str = "refuse",
    accept: str = "likely",
    min_coverage: float | None = None,
    strict: bool = False,
    policy: Policy | None = None,
    grow_rows: Sequence[str] = (),
    class_names: Mapping[str, Sequence[str]] | None = None,
    class_rows: Mapping[str, int] | None = None,
    in_channels: Mapping[str, str] | None = None,
    grids: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] | None = None,
    permute: Mapping[str, Sequence[int]] | None = None,
    merge_lora: bool | float = False,
    fuse_branches: bool = False,
    fold_norms: bool | float = False,
    init: Mapping[str, str] | None = None,
    tensor_parallel: Mapping[str, str] | None = None,
    source_model: object = None,
) -> Request:
    """Return the checked request; see load() for what each argument means.

    Raises:
        UsageError: an argument makes no sense.
    """
    if on_doubt not in ON_DOUBT:
        raise UsageError(f"on_doubt={on_doubt!r}: use one of {', '.join(map(repr, ON_DOUBT))}")
    if accept not in ACCEPT:
        raise UsageError(f"accept={accept!r}: use one of {', '.join(map(repr, ACCEPT))}")
    if min_coverage is not None and not 0 <= min_coverage <= 1:
        raise UsageError(f"min_coverage={min_coverage!r}: use a share between 0 and 1")
    for name, value in (("fresh", fresh), ("zero", zero), ("grow_rows", grow_rows)):
        if isinstance(value, str):
            raise UsageError(f"{name}={value!r}: give a list of patterns, e.g. {name}=[{value!r}]")
    if source_model is not None and not hasattr(source_model, "named_parameters"):
        kind = type(source_model).__name__
        raise UsageError(f"source_model is a {kind}: give the module that the checkpoint was saved from")
    chosen = policy or Policy()
    if on_doubt != "refuse":
        chosen = replace(chosen, doubt=Verdict.WARN)
    if strict:
        chosen = replace(chosen, missing=Verdict.REFUSE, unused=Verdict.REFUSE)
    if min_coverage is not None:
        chosen = replace(chosen, min_coverage=min_coverage)
    rules = Rules(
        rename=rename or {}, fan_out=fan_out or {}, layers=layers or {}, copies=copies or {}, fresh=fresh, zero=zero
    )
    options = Options(
        grow_rows=grow_rows, classes=_classes(class_names, class_rows), in_channels=in_channels or {},
        grids=grids or {}, permute=permute or {}, merge_lora=merge_lora, fuse_branches=fuse_branches,
        fold_norms=fold_norms, init=init or {},
    )  # fmt: skip
    return Request(
        rules=rules,
        options=options,
        policy=chosen,
        prefer=prefer,
        on_doubt=on_doubt,
        accept=accept,
        tensor_parallel=tensor_parallel or {},
        source_model=source_model,
    )


def _classes(names: Mapping[str, Sequence[str]] | None, rows: Mapping[str, int] | None) -> ClassRows | None:
    if names is None and rows is None:
        return None
    if names is None or rows is None or set(names) != {"source", "target"}:
        raise UsageError(
            "class rows need class_names={'source': [...], 'target': [...]} and class_rows={module: rows per class}"
        )
    for side, listed in names.items():
        twice = sorted({n for n in listed if list(listed).count(n) > 1})
        if twice:
            raise UsageError(f"class_names[{side!r}] holds {', '.join(map(repr, twice[:4]))} more than once")
    return ClassRows(source=tuple(names["source"]), target=tuple(names["target"]), modules=dict(rows))
