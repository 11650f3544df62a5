"""What a model gave and did, as tensors and plain text: recorded in one process, compared with in another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torchgraft.core.errors import UnsupportedCheckpointError, UsageError, printable
from torchgraft.core.objects import a_kind
from torchgraft.core.places import here, places
from torchgraft.core.results.recording import Fingerprint, Operation, Recording, Value
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.tracing import Run, ordered_fingerprint

FORMAT = "torchgraft.golden/1"
_OPERATION_FIELDS = tuple(one.name for one in fields(Operation))  # in this order each is a row of the file


@dataclass(frozen=True, slots=True)
class Golden:
    """Recorded runs: each input (None where it was a callable) with what came of it.

    `weights` are fingerprints of the tensors that the model had: they say which tensor of a file is which.
    """

    inputs: tuple[Any, ...]
    runs: tuple[Run, ...]
    weights: Mapping[str, Fingerprint] = field(default_factory=dict)

    def inputs_for(self, given: object) -> Sequence[Any]:
        """Return the inputs to run a model on: the given ones, else those that were recorded.

        Raises:
            UsageError: a recorded input was a callable, or the numbers differ.
        """
        if isinstance(given, str):
            raise UsageError(f"inputs={given!r:.80}: a recorded run holds its inputs; leave them out, or give as many")
        if given is None:
            if any(one is None for one in self.inputs):
                raise UsageError(
                    "the inputs were recorded as callables, which no file holds: give inputs= that run the model"
                )
            return self.inputs
        inputs = given if isinstance(given, list) else [given]
        if len(inputs) != len(self.runs):
            raise UsageError(f"{len(inputs)} inputs, and {len(self.runs)} recorded runs: give one for each")
        return inputs


def weight_fingerprints(model: Module) -> dict[str, Fingerprint]:
    """Return fingerprints of a model's parameters and buffers by name; tensors without plain values are left out."""
    found = {place.name: ordered_fingerprint(here(place.tensor)) for place in places(model)}
    return {name: one for name, one in found.items() if one is not None}


def to_tensors(golden: Golden) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return golden runs as named tensors and text, as files of tensors hold them.

    Raises:
        UsageError: an input holds something else than tensors and plain values.
    """
    tensors: dict[str, Tensor] = {}
    entries = []
    for number, (given, run) in enumerate(zip(golden.inputs, golden.runs, strict=True)):
        for name, tensor in run.outputs.items():
            tensors[f"output.{number}.{name}"] = tensor.detach().to("cpu").contiguous()
        entry = {"input": _input_to_plain(given, f"input.{number}", tensors), "outputs": list(run.outputs)}
        entries.append(entry | {"recording": _recording_to_plain(run.recording)})
    weights = json.dumps({name: _fingerprint_to_plain(one) for name, one in golden.weights.items()})
    return tensors, {"format": FORMAT, "runs": json.dumps(entries), "weights": weights}


def from_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, object], origin: str) -> Golden:
    """Return the golden runs that `to_tensors` gave as tensors and text.

    Raises:
        UnsupportedCheckpointError: they are no golden runs.
    """
    if metadata.get("format") != FORMAT:
        raise UnsupportedCheckpointError(f"{origin} holds no recorded runs (format {FORMAT}): make it with tg.record()")
    try:
        entries = json.loads(str(metadata["runs"]))
        inputs = tuple(_input_from_plain(entry["input"], tensors) for entry in entries)
        runs = tuple(
            Run(
                {name: tensors[f"output.{n}.{name}"] for name in entry["outputs"]},
                _recording_from_plain(entry["recording"]),
            )
            for n, entry in enumerate(entries)
        )
        weights = {
            name: _fingerprint_from_plain(figures) for name, figures in json.loads(str(metadata["weights"])).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UnsupportedCheckpointError(
            f"{origin}: the recorded runs are broken ({printable(repr(error))}): record them anew"
        ) from error
    return Golden(inputs, runs, weights)


def _input_to_plain(given: Any, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return an input as plain data; its tensors go into `tensors`."""
    import torch

    if isinstance(given, torch.Tensor):
        tensors[name] = given.detach().to("cpu").contiguous().clone()
        return {"tensor": name}
    if isinstance(given, Mapping):
        return {"mapping": {str(k): _input_to_plain(v, f"{name}.{k}", tensors) for k, v in given.items()}}
    if isinstance(given, (tuple, list)):
        return {"tuple": [_input_to_plain(v, f"{name}.{n}", tensors) for n, v in enumerate(given)]}
    if given is None or isinstance(given, (bool, int, float, str)):
        return {"plain": given}
    if callable(given):
        return {"callable": True}
    raise UsageError(f"{name} is {a_kind(given)}: give tensors, plain values, or a callable that runs the model")


def _input_from_plain(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in described:
        return tensors[described["tensor"]]
    if "mapping" in described:
        return {k: _input_from_plain(v, tensors) for k, v in described["mapping"].items()}
    if "tuple" in described:
        return tuple(_input_from_plain(v, tensors) for v in described["tuple"])
    return described.get("plain")


def _recording_to_plain(recording: Recording) -> dict[str, Any]:
    figures = [None if v.fingerprint is None else _fingerprint_to_plain(v.fingerprint) for v in recording.values]
    return {
        "operations": [[getattr(operation, name) for name in _OPERATION_FIELDS] for operation in recording.operations],
        "values": [[v.op, v.shape, f, v.weights, v.live] for v, f in zip(recording.values, figures, strict=True)],
        "outputs": recording.outputs,
    }


def _recording_from_plain(data: Mapping[str, Any]) -> Recording:
    operations = tuple(
        Operation(**dict(zip(_OPERATION_FIELDS, map(_lists_to_tuples, row), strict=True))) for row in data["operations"]
    )
    values = tuple(
        Value(
            op=op,
            shape=tuple(shape),
            fingerprint=None if figures is None else _fingerprint_from_plain(figures),
            weights=tuple(weights),
            live=live,
        )
        for op, shape, figures, weights, live in data["values"]
    )
    outputs = tuple(data["outputs"])
    _require_indices([*outputs, *(n for o in operations for n in (*o.inputs, *o.outputs))], 0, len(values))
    _require_indices([value.op for value in values], -1, len(operations))
    return Recording(operations=operations, values=values, outputs=outputs)


def _require_indices(numbers: Sequence[object], least: int, end: int) -> None:
    for number in numbers:
        if type(number) is not int or not least <= number < end:
            raise ValueError(f"number {number!r:.40} of {end}")


def _fingerprint_to_plain(found: Fingerprint) -> list[float]:
    return [figure for figure in asdict(found).values() if figure is not None]


def _fingerprint_from_plain(figures: Sequence[Any]) -> Fingerprint:
    """Return a fingerprint, of figures that a tensor can have."""
    numel, total, squares, least, greatest, huge, *order = figures
    _require_indices((numel, huge), 0, 1 << 63)
    if len(order) > 1:
        raise ValueError(f"{len(figures)} figures of a tensor")
    found = Fingerprint(numel, float(total), float(squares), float(least), float(greatest), huge, *map(float, order))
    if found.squares < 0 or (found.squares > 0 and not (numel and (found.least or found.greatest))):
        raise ValueError(f"figures that no tensor has: {figures!r:.120}")
    return found


def _lists_to_tuples(value: Any) -> Any:
    """Return what JSON made a list of as the tuple that it was, in a table, too."""
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value
