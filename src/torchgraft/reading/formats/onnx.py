"""ONNX models: their initialisers and constants, also those whose bytes lie in files beside the model.

The numbers of fields and types are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchgraft.core.errors import printable
from torchgraft.reading.containers.protobuf import BYTES, VARINT, Messages, Span
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Window
from torchgraft.reading.formats.onnx_tensors import Initialiser, read_initialiser
from torchgraft.reading.tensors import TensorView

MAX_DEPTH = 24
_FACTS = {2: "producer_name", 3: "producer_version", 4: "domain"}
CONSTANTS = "constants"


def read_onnx(window: Window) -> Contents:
    """Return the initialisers of an ONNX model; those of subgraphs stand below the name of their node.

    A constant of the graph is a weight where it is a float array, since exporters write weights both ways; other
    constants form a network of their own.
    """
    return _Reader(window).model()


class _Reader:
    def __init__(self, window: Window) -> None:
        self.window = window
        self.messages = Messages(window)
        self.refused: list[tuple[str, str]] = []
        self.left_out: list[str] = []
        self.constants: dict[str, TensorView] = {}

    def model(self) -> Contents:
        facts: dict[str, Any] = {}
        graphs: list[Span] = []
        tree: dict[str, Any] = {}
        functions = 0
        for number, wire, value, span in self.messages.fields(Span(0, self.window.size)):
            if number == 1 and wire == VARINT:
                facts["ir_version"] = value
            elif number in _FACTS and wire == BYTES and span.size:
                facts[_FACTS[number]] = self.messages.text(span)
            elif number == 7 and wire == BYTES:
                graphs.append(span)
            elif number == 25 and wire == BYTES:
                functions += 1
                tree[f"function_{functions}"] = self.graph(span, f"function_{functions}.", 1, nodes=7)
        if len(graphs) != 1:
            raise self.window.corrupt(f"holds {len(graphs) or 'no'} graphs, an ONNX model has one")
        tree = {k: v for k, v in tree.items() if v} | self.graph(graphs[0], "", 1)
        if self.constants:
            tree[CONSTANTS] = self.constants
        if self.refused:
            name, why = self.refused[0]
            raise self.window.unsupported(
                f"{len(self.refused)} initialisers are not read, as {printable(name, 80)} ({why}); "
                "export the model in float32 or float16"
            )
        warnings = []
        if self.left_out:
            warnings.append(f"{len(self.left_out)} initialisers are text and were left out, as {self.left_out[0]}")
        return Contents(format="ONNX", tree=tree, metadata=facts, warnings=warnings)

    def graph(self, span: Span, path: str, depth: int, *, nodes: int = 1) -> dict[str, Any]:
        """Return the weights of the graph at `path` by name; `nodes` is the number of the field that holds its nodes."""
        if depth > MAX_DEPTH:
            raise self.window.too_large(f"graphs are nested to a depth over {MAX_DEPTH}")
        weights: dict[str, Any] = {}
        count = 0
        for number, wire, _, part in self.messages.fields(span):
            if wire != BYTES:
                continue
            if number == nodes:
                count += 1
                for name, what in self._node(part, path, count, depth):
                    if isinstance(what, dict) or _is_weight(what):
                        self._put(weights, name, what)
                    else:
                        self._put(self.constants, path + name, what)
            elif number == 5 and nodes == 1:
                self._initialiser(part, weights)
            elif number == 15 and nodes == 1:
                self.refused.append(("one", "sparse"))
        return weights

    def _initialiser(self, span: Span, weights: dict[str, Any]) -> None:
        found = read_initialiser(self.messages, span)
        if not found.name:
            raise self.window.corrupt(f"the initialiser at byte {span.at} has no name")
        view = self._view(found)
        if view is not None:
            self._put(weights, found.name, view)

    def _node(self, span: Span, path: str, count: int, depth: int) -> Iterator[tuple[str, Any]]:
        """Yield the tensor of a constant and the graphs of a node that has some, by name."""
        name = kind = output = ""
        attributes: list[Span] = []
        for number, wire, _, part in self.messages.fields(span):
            if wire == BYTES and number in (2, 3, 4):
                text = self.messages.text(part)
                name, kind = (text, kind) if number == 3 else (name, text if number == 4 else kind)
                output = output or (text if number == 2 else "")
            elif wire == BYTES and number == 5:
                attributes.append(part)
        for attribute in attributes:
            label, tensor, graphs = self._attribute(attribute)
            if tensor is not None and kind == "Constant" and label == "value":
                found = read_initialiser(self.messages, tensor)
                found.name = output
                view = self._view(found)
                if view is not None:
                    yield output, view
            for i, graph in enumerate(graphs):
                where = f"{name or f'{kind}_{count}'}.{label}{f'_{i}' if len(graphs) > 1 else ''}"
                inside = self.graph(graph, f"{path}{where}.", depth + 1)
                if inside:
                    yield where, inside

    def _attribute(self, span: Span) -> tuple[str, Span | None, list[Span]]:
        label, tensor, graphs = "", None, []
        for number, wire, _, part in self.messages.fields(span):
            if wire == BYTES and number == 1:
                label = self.messages.text(part)
            elif wire == BYTES and number == 5:
                tensor = part
            elif wire == BYTES and number in (6, 11):
                graphs.append(part)
        return label, tensor, graphs

    def _view(self, found: Initialiser) -> TensorView | None:
        """Return the tensor, None where it is noted as not read."""
        if found.refusal:
            self.refused.append((found.name, found.refusal))
            return None
        if found.is_text:
            self.left_out.append(printable(found.name, 80))
            return None
        return found.view(self.window)

    def _put(self, into: dict[str, Any], name: str, what: Any) -> None:
        if name in into:
            raise self.window.corrupt(f"duplicate tensor {printable(name)}")
        into[name] = what


def _is_weight(view: TensorView) -> bool:
    return bool(view.shape) and view.dtype.kind in ("float", "complex")
