"""Inspections and diffs as plain data under versioned schemas; docs/reference/report-schema.md documents the fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.core.facts import DIGESTS, digests_of
from torchgraft.reporting.json import Data, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchgraft.core.results.diff import Change, Diff
    from torchgraft.core.results.inspection import DigestCheck, Inspection, NetworkSummary
    from torchgraft.core.results.saved import Saved
    from torchgraft.core.results.statistics import Statistics
    from torchgraft.core.specs import TensorSpec

INSPECTION_SCHEMA = "torchgraft.inspection/1"
DIFF_SCHEMA = "torchgraft.diff/1"
SAVED_SCHEMA = "torchgraft.saved/1"


def inspection_to_dict(found: Inspection) -> Data:
    """Return an inspection as data that `json.dumps` takes as it is."""
    return {**inspection_in_turn(found), "tensors": [_spec(spec) for spec in found.specs]}


def inspection_in_turn(found: Inspection) -> Data:
    """Return the same data with an iterator in place of the list of tensors: there may be a million."""
    return {
        "schema": INSPECTION_SCHEMA,
        "origin": found.origin,
        "format": found.format,
        "networks": [_network(network) for network in found.networks],
        "chosen": found.chosen,
        "rivals": list(found.rivals),
        "note": found.note,
        "warnings": list(found.warnings),
        "metadata": plain(_readable(found.metadata)),
        "shared": dict(found.shared),
        "verification": None if found.verification is None else _verification(found.verification),
        "statistics": None if found.statistics is None else _statistics(found.statistics),
        "tensors": map(_spec, found.specs),
    }


def _readable(metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the facts with the digests as a table: a file keeps them as one long text."""
    digests = digests_of(metadata)
    return {**metadata, DIGESTS: digests} if digests else dict(metadata)


def _verification(found: DigestCheck) -> Data:
    return {
        "passed": found.passed,
        "compared": found.compared,
        "differing": list(found.differing),
        "missing": list(found.missing),
        "without": list(found.without),
    }


def _statistics(found: Statistics) -> Data:
    return {
        "suspicions": [{"rule": s.rule, "text": s.text, "names": list(s.names)} for s in found.suspicions],
        "tensors": {
            name: {
                "numel": m.numel, "odd": m.odd, "min": plain(m.least), "max": plain(m.greatest), "mean": plain(m.mean),
                "std": plain(m.std), "kurtosis": plain(m.kurtosis), "zero_rows": m.zero_rows, "even_rows": m.even_rows,
            }
            for name, m in found.tensors.items()
        },
    }  # fmt: skip


def diff_to_dict(diff: Diff) -> Data:
    """Return a diff as data that `json.dumps` takes as it is."""
    return {
        "schema": DIFF_SCHEMA,
        "old": diff.old,
        "new": diff.new,
        "values": diff.values,
        "equal": diff.equal,
        "hint": diff.hint,
        "notes": list(diff.notes),
        "added": [_spec(spec) for spec in diff.added],
        "removed": [_spec(spec) for spec in diff.removed],
        "shape_changed": [_change(change) for change in diff.shape_changed],
        "dtype_changed": [_change(change) for change in diff.dtype_changed],
        "value_changed": [_change(change) for change in diff.value_changed],
        "same": [spec.name for spec in diff.same],
    }


def saved_to_dict(saved: Saved) -> Data:
    """Return what was written as data that `json.dumps` takes as it is."""
    return {
        "schema": SAVED_SCHEMA,
        "origin": saved.origin,
        "network": saved.network,
        "path": saved.path,
        "format": saved.format,
        "files": list(saved.files),
        "tensors": saved.tensors,
        "bytes": saved.nbytes,
        "cast": saved.cast,
        "shared": dict(saved.shared),
        "left_out": list(saved.left_out),
        "notes": list(saved.notes),
    }


def _network(network: NetworkSummary) -> Data:
    return {
        "path": network.path,
        "role": network.role,
        "tensors": network.tensors,
        "elements": network.elements,
        "bytes": network.nbytes,
        "dtypes": {str(dtype): count for dtype, count in network.dtypes.items()},
    }


def _spec(spec: TensorSpec) -> Data:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": str(spec.dtype)}


def _change(change: Change) -> Data:
    found = change.distance
    return {
        "name": change.old.name,
        "old": {"shape": list(change.old.shape), "dtype": str(change.old.dtype)},
        "new": {"shape": list(change.new.shape), "dtype": str(change.new.dtype)},
        "distance": None if found is None else {"elements": found.elements, "greatest": plain(found.greatest)},
    }
