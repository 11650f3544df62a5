"""Learning a conversion, then running it, keeping it and turning it round."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.plan import Feed, Op, Plan
from torchgraft.core.results.conversion import Absent, Computed, Conversion, Output
from torchgraft.core.shown import Renderers
from torchgraft.core.specs import Source, TensorSpec
from torchgraft.core.system.commit import write_bytes
from torchgraft.core.system.json_files import naming_the_file, read_json, read_spec, rows, text, texts
from torchgraft.core.types import Tensor
from torchgraft.learning.inverse import inverse_conversion
from torchgraft.learning.outputs import output_of
from torchgraft.learning.probes import CONSTANT, Convert, ElementNumbers, Ids, Traced, tensor_spec, trace
from torchgraft.learning.source import ConvertedSource, require_fit, spec_of, value_of
from torchgraft.learning.validation import validate
from torchgraft.ops import Cast, PadRows, read_ops

LARGEST = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Learned(Conversion):
    """A conversion that was learned, or made of a plan: read it, run it on other values, turn it round, keep it in a file."""

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the conversion makes of `state`, computed outputs left out. May share memory with `state`.

        Raises:
            UsageError: a tensor is missing or has another shape than when the conversion was made.
        """
        require_fit(self, {name: tensor_spec(name, value) for name, value in state.items()}, "the state dict")
        return {output.name: value_of(output, state.__getitem__) for output in self.outputs}

    def opened(self, source: Source, prefer: str | None = None) -> Source:
        """Return an opened checkpoint as the conversion sees it: other names, values computed as they are read.

        Of several networks in the checkpoint the first that fits is taken, or the one that `prefer` names.

        Raises:
            UsageError: no network of the checkpoint has the names and shapes that the conversion was made for.
        """
        return ConvertedSource(self, source, prefer)

    def inverse(self) -> Learned:
        """Return the conversion that gives the source back.

        Raises:
            UsageError: a part of the source is not in the outputs, or is rounded there; all such tensors are named.
        """
        return _inverse(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversion to a JSON file, whole or not at all; `Learned.read` reads it back.

        Raises:
            WriteError: the file can't be written; what stood there is intact.
        """
        write_bytes(path, json.dumps(to_plain(self), separators=(",", ":"), allow_nan=False).encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str], renderers: Renderers | None = None) -> Self:
        """Return the conversion that `save` wrote. The file is data: nothing in it is run.

        Raises:
            CheckpointError: there is no such file (MissingFileError), or it is too large.
            UsageError: the file is no learned conversion, or a broken one.
        """
        shown = printable(os.fsdecode(path))
        data = read_json(path, LARGEST, "learned conversion")
        return cls.made_of(from_plain(data, shown), renderers)

    @classmethod
    def made_of(cls, found: Conversion, renderers: Renderers | None = None) -> Self:
        """Return a conversion with all that can be done with one."""
        return cls(**{one.name: getattr(found, one.name) for one in fields(found)} | {"renderers": renderers})


def learn(convert: Convert, specs: Mapping[str, TensorSpec], renderers: Renderers | None = None) -> Learned:
    """Return what `convert` does to a state dict with these specs; see `torchgraft.learn`.

    Raises:
        UsageError: it fails on probe tensors, or gives no state dict, or another form each time.
    """
    numbers = ElementNumbers(specs)
    traced, skipped = trace(convert, numbers)
    found = [output_of(traced.pop(name), numbers) for name in list(traced)]
    outputs, computed = validate(found, convert, specs)
    return Learned(
        sources=dict(specs), outputs=tuple(outputs), computed=tuple(computed), skipped=skipped, renderers=renderers
    )


def inverse_of(plan: Plan, renderers: Renderers | None = None, *, rest: bool = False) -> Learned:
    """Return the way back from the model that `plan` fills to its checkpoint; see `torchgraft.inverse`.

    Raises:
        UsageError: the plan reads several networks.
    """
    return Learned.made_of(inverse_conversion(plan, rest=rest), renderers)


def _inverse(conversion: Learned) -> Learned:
    """Return the conversion from the outputs back to the sources.

    Every element of the source is looked for among the outputs by its number; then the way back is found as the
    conversion was.

    Raises:
        UsageError: elements of the source are in no output, or are rounded there.
    """
    source_numbers = ElementNumbers(conversion.sources)
    output_numbers = ElementNumbers({output.name: output.spec for output in conversion.outputs if output.feeds})
    places = _output_places(conversion, source_numbers, output_numbers)
    lost = [name for name, ids in places.items() if (ids == CONSTANT).any()]
    if lost:
        raise UsageError(_no_inverse("the conversion leaves out", [_lost_words(name, places[name]) for name in lost]))
    rounding = [output.name for output in conversion.outputs if _rounds(output, conversion)]
    if rounding:
        raise UsageError(_no_inverse("the conversion rounds", [printable(name) for name in rounding]))
    made = [
        output_of(Traced(spec, places.pop(name), None), output_numbers) for name, spec in conversion.sources.items()
    ]
    failed = [printable(found.spec.name) for found in made if not isinstance(found, Output)]
    if failed:
        raise UsageError(_no_inverse("no short plan makes", failed))
    outputs = tuple(found for found in made if isinstance(found, Output))
    return replace(conversion, sources=output_numbers.specs, outputs=outputs, computed=(), skipped=())


def _output_places(
    conversion: Conversion, source_numbers: ElementNumbers, output_numbers: ElementNumbers
) -> dict[str, Ids]:
    """Return for each source tensor the number of the output element that holds each of its elements, or CONSTANT."""
    import torch

    starts = dict(zip(source_numbers.names, map(int, source_numbers.starts), strict=False))

    def numbered(key: str) -> Tensor:
        # Zeros that an output inserts have no origin: counted from one, no element can be taken for them.
        spec = source_numbers.specs[key]
        return torch.arange(starts[key] + 1, starts[key] + spec.numel + 1, device="cpu").reshape(spec.shape)

    flat: Ids = np.full(source_numbers.total, CONSTANT, dtype=np.int64)
    for at, name in enumerate(output_numbers.names):
        origin = value_of(_without_casts(conversion.by_name[name]), numbered).reshape(-1).numpy() - 1
        places = np.arange(origin.size, dtype=np.int64) + int(output_numbers.starts[at])
        is_element = (origin >= 0) & (origin < source_numbers.total)
        flat[origin[is_element][::-1]] = places[is_element][::-1]
    return {
        name: flat[starts[name] : starts[name] + spec.numel].reshape(spec.shape)
        for name, spec in source_numbers.specs.items()
    }


def _without_casts(output: Output) -> Output:
    feeds = tuple(replace(feed, ops=_as_moves(feed.ops)) for feed in output.feeds)
    return replace(output, feeds=feeds, ops=_as_moves(output.ops))


def _as_moves(ops: Iterable[Op]) -> tuple[Op, ...]:
    """Return the ops as they move numbers: without casts, and with zeros where constants are added."""
    return tuple(replace(op, value=0.0) if isinstance(op, PadRows) else op for op in ops if not isinstance(op, Cast))


def _rounds(output: Output, conversion: Conversion) -> bool:
    """Return whether a cast on the way can't hold every value of the source."""
    for feed in output.feeds:
        stored = conversion.sources[feed.key].dtype
        casts = [op for op in (*feed.ops, *output.ops) if isinstance(op, Cast)]
        if not all(DType.of(op.dtype).holds(stored) for op in casts):
            return True
    return False


def _lost_words(name: str, ids: Ids) -> str:
    count = int((ids == CONSTANT).sum())
    return f"{printable(name)} ({'all' if count == ids.size else count} of its {ids.size} elements)"


def _no_inverse(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"no inverse: {what} {', '.join(names[:6])}{more}; what is gone can't be made again"


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
        "partly": list(found.partly),
        "absent": [{**_spec(one.spec), "why": one.why} for one in found.absent],
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
    with naming_the_file(origin, "learned conversion"):
        sources = {spec.name: spec for spec in (read_spec(item["name"], item) for item in rows(data, "sources"))}
        return Conversion(
            sources=sources,
            outputs=tuple(_output(item, sources) for item in rows(data, "outputs")),
            computed=tuple(map(_computed, rows(data, "computed"))),
            skipped=texts(data["skipped"]),
            absent=tuple(map(_absent, rows(data, "absent") if "absent" in data else ())),
            partly=texts(data.get("partly", [])),
        )


def _output(item: Mapping[str, Any], sources: Mapping[str, TensorSpec]) -> Output:
    spec = read_spec(item["name"], item)
    feeds = tuple(Feed(text(feed["key"]), read_ops(feed["ops"])) for feed in rows(item, "feeds"))
    unknown = [feed.key for feed in feeds if feed.key not in sources]
    if unknown:
        raise UsageError(f"{spec.name} is fed by {unknown[0]!r}, which is no source tensor")
    output = Output(spec=spec, feeds=feeds, ops=read_ops(item["ops"]))
    if not output.ops and len(feeds) != 1:
        raise UsageError(f"{spec.name} joins {len(feeds)} tensors by no op")
    made = spec_of(output, sources)
    if made != spec:
        actual = f"comes out {list(made.shape)} {made.dtype}"
        raise UsageError(f"{spec.name} should be {list(spec.shape)} {spec.dtype} and {actual}")
    return output


def _absent(item: Mapping[str, Any]) -> Absent:
    return Absent(spec=read_spec(item["name"], item), why=text(item["why"]))


def _computed(item: Mapping[str, Any]) -> Computed:
    spec = read_spec(item["name"], item)
    return Computed(spec=spec, why=text(item["why"]), keys=texts(item["keys"]), complete=item["complete"] is True)
