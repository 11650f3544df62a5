"""Learned conversions as plain data, and back; everything that comes in is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.plan import Feed, Op
from torchgraft.core.results.conversion import Computed, Conversion, Output
from torchgraft.core.specs import TensorSpec
from torchgraft.learning.running import spec_of
from torchgraft.ops import from_dict

SCHEMA = "torchgraft.learned/1"


def to_plain(found: Conversion) -> dict[str, object]:
    """Return the conversion as data that `json.dumps` takes as it is; `from_plain` reads it back."""
    return {
        "schema": SCHEMA,
        "sources": [_spec(spec) for spec in found.sources.values()],
        "outputs": [
            {
                **_spec(output.spec),
                "feeds": [{"key": feed.key, "ops": _ops(feed.ops)} for feed in output.feeds],
                "ops": _ops(output.ops),
            }
            for output in found.outputs
        ],
        "computed": [
            {**_spec(c.spec), "why": c.why, "keys": list(c.keys), "complete": c.complete} for c in found.computed
        ],
        "skipped": list(found.skipped),
        "dropped": list(found.dropped),
    }


def _spec(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype.label}


def _ops(ops: Iterable[Op]) -> list[dict[str, object]]:
    return [op.to_dict() for op in ops]


def from_plain(data: object, origin: str) -> Conversion:
    """Return the conversion that `to_plain` gave.

    Raises:
        UsageError: no such data, a field of the wrong kind, or an output whose ops don't make what it says.
    """
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise UsageError(f"{origin} is no learned conversion: its schema should be {SCHEMA!r}")
    sources = {spec.name: spec for spec in (_spec_from(item, origin) for item in _list(data, "sources", origin))}
    outputs = tuple(_output(item, sources, origin) for item in _list(data, "outputs", origin))
    computed = tuple(_computed(item, origin) for item in _list(data, "computed", origin))
    skipped = tuple(str(name) for name in _list(data, "skipped", origin))
    return Conversion(sources=sources, outputs=outputs, computed=computed, skipped=skipped)


def _output(item: Any, sources: Mapping[str, TensorSpec], origin: str) -> Output:
    spec = _spec_from(item, origin)
    feeds = []
    for feed in _list(item, "feeds", origin):
        key = feed.get("key") if isinstance(feed, Mapping) else None
        if not isinstance(key, str) or key not in sources:
            raise _broken(origin, f"{spec.name} is fed by {key!r}, which is no source tensor")
        feeds.append(Feed(key, tuple(from_dict(op) for op in _list(feed, "ops", origin))))
    output = Output(spec=spec, feeds=tuple(feeds), ops=tuple(from_dict(op) for op in _list(item, "ops", origin)))
    if not output.ops and len(feeds) != 1:
        raise _broken(origin, f"{spec.name} joins {len(feeds)} tensors by no op")
    made = spec_of(output, sources)
    if made != spec:
        raise _broken(
            origin,
            f"{spec.name} should be {list(spec.shape)} {spec.dtype} and comes out {list(made.shape)} {made.dtype}",
        )
    return output


def _computed(item: Any, origin: str) -> Computed:
    spec = _spec_from(item, origin)
    keys = tuple(str(key) for key in _list(item, "keys", origin))
    return Computed(spec=spec, why=str(item.get("why")), keys=keys, complete=item.get("complete") is True)


def _spec_from(item: Any, origin: str) -> TensorSpec:
    name, shape, dtype = (item.get(key) if isinstance(item, Mapping) else None for key in ("name", "shape", "dtype"))
    sizes = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not isinstance(name, str) or not sizes or not isinstance(dtype, str):
        raise _broken(origin, f"a tensor without a name, shape or element type: {item!r:.80}")
    try:
        return TensorSpec(name, tuple(shape), DType.of(dtype))  # type: ignore[arg-type]  # checked above
    except KeyError:
        raise _broken(origin, f"{name} has the element type {dtype!r:.40}, which is not known") from None


def _list(item: Any, key: str, origin: str) -> list[Any]:
    found = item.get(key) if isinstance(item, Mapping) else None
    if not isinstance(found, list):
        raise _broken(origin, f"{key!r} should be a list")
    return found


def _broken(origin: str, text: str) -> UsageError:
    return UsageError(f"{origin} is a broken learned conversion: {printable(text, 300)}")
