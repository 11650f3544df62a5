"""Learned conversions as plain data, and back; everything that comes in is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Feed, Op
from torchgraft.core.results.conversion import Computed, Conversion, Output
from torchgraft.core.specs import TensorSpec
from torchgraft.core.system.stored import read_spec, rows, text, texts, understanding
from torchgraft.learning.running import spec_of
from torchgraft.ops import read_ops

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
    with understanding(origin, "learned conversion"):
        sources = {spec.name: spec for spec in (read_spec(item["name"], item) for item in rows(data, "sources"))}
        return Conversion(
            sources=sources,
            outputs=tuple(_output(item, sources) for item in rows(data, "outputs")),
            computed=tuple(map(_computed, rows(data, "computed"))),
            skipped=texts(data["skipped"]),
        )


def _output(item: Mapping[str, Any], sources: Mapping[str, TensorSpec]) -> Output:
    spec = read_spec(item["name"], item)
    feeds = tuple(Feed(text(feed["key"]), read_ops(feed["ops"])) for feed in rows(item, "feeds"))
    strange = [feed.key for feed in feeds if feed.key not in sources]
    if strange:
        raise UsageError(f"{spec.name} is fed by {strange[0]!r}, which is no source tensor")
    output = Output(spec=spec, feeds=feeds, ops=read_ops(item["ops"]))
    if not output.ops and len(feeds) != 1:
        raise UsageError(f"{spec.name} joins {len(feeds)} tensors by no op")
    made = spec_of(output, sources)
    if made != spec:
        said = f"should be {list(spec.shape)} {spec.dtype} and comes out {list(made.shape)} {made.dtype}"
        raise UsageError(f"{spec.name} {said}")
    return output


def _computed(item: Mapping[str, Any]) -> Computed:
    spec = read_spec(item["name"], item)
    return Computed(spec=spec, why=text(item["why"]), keys=texts(item["keys"]), complete=item["complete"] is True)
