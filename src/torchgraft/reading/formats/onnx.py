"""ONNX models: their initialisers and constants, also those whose bytes lie in files beside the model.

The numbers of fields and types are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torchgraft.core.errors import printable
from torchgraft.core.formatting import counted
from torchgraft.reading.containers.protobuf import BYTES, VARINT, Messages, Span
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Window
from torchgraft.reading.formats.onnx_names import KINDS, TURNS, Use, named_by_use, repeated
from torchgraft.reading.formats.onnx_tensors import Initialiser, read_initialiser
from torchgraft.reading.tensors import TensorView

MAX_DEPTH = 24
_FACTS = {2: "producer_name", 3: "producer_version", 4: "domain"}
CONSTANTS = "constants"


def read_onnx(window: Window) -> Contents:
    """Return the initialisers of an ONNX model; those of subgraphs stand below the name of their node.

    A constant of the graph is a weight where it is a float array, since exporters write weights both ways; other
    constants form a network of their own. What has no name of its own goes by the module that uses it (`onnx_names`).
    """
    return _Reader(window).model()


class _Reader:
    def __init__(self, window: Window) -> None:
        self.window = window
        self.messages = Messages(window)
        self.refused: list[tuple[str, str]] = []
        self.left_out: list[str] = []
        self.constants: dict[str, TensorView] = {}
        self.named: dict[str, str] = {}

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
                f"{counted(len(self.refused), 'initialiser')} not read, as {printable(name, 80)} ({why}); "
                "export the model in float32 or float16"
            )
        return Contents(format="ONNX", tree=tree, metadata=facts, warnings=self._warnings())

    def _warnings(self) -> list[str]:
        out = []
        if self.left_out:
            out.append(f"left out {counted(len(self.left_out), 'initialiser')} of text, as {self.left_out[0]}")
        if self.named:
            old, new = next(iter(self.named.items()))
            out.append(
                f"{counted(len(self.named), 'initialiser')} without names of their own: named by the modules that use them, as "
                f"{printable(old, 80)}: {printable(new, 80)}"
            )
        return out

    def graph(self, span: Span, path: str, depth: int, *, nodes: int = 1) -> dict[str, Any]:
        """Return the weights of the graph at `path` by name; `nodes` is the number of the field that holds its nodes."""
        if depth > MAX_DEPTH:
            raise self.window.too_large(f"graphs are nested to a depth over {MAX_DEPTH}")
        weights: dict[str, Any] = {}
        uses: list[Use] = []
        count = 0
        for number, wire, _, part in self.messages.fields(span):
            if wire != BYTES:
                continue
            if number == nodes:
                count += 1
                for name, what in self._node(part, path, count, depth, uses):
                    if isinstance(what, dict) or _is_weight(what):
                        self._put(weights, name, what)
                    else:
                        self._put(self.constants, path + name, what)
            elif number == 5 and nodes == 1:
                self._initialiser(part, weights)
            elif number == 15 and nodes == 1:
                self.refused.append(("one", "sparse"))
        return self._with_names(weights, uses, path)

    def _with_names(self, weights: dict[str, Any], uses: Sequence[Use], path: str) -> dict[str, Any]:
        """Return the weights of the graph at `path` also under the names that its nodes give to them."""
        weights |= {again: weights[name] for again, name in repeated(uses, weights).items()}
        names = named_by_use(uses, weights)
        self.named |= {path + old: path + new for old, new in names.items()}
        return {names.get(name, name): what for name, what in weights.items()}

    def _initialiser(self, span: Span, weights: dict[str, Any]) -> None:
        found = read_initialiser(self.messages, span)
        if not found.name:
            raise self.window.corrupt(f"the initialiser at byte {span.at} has no name")
        view = self._view(found)
        if view is not None:
            self._put(weights, found.name, view)

    def _node(self, span: Span, path: str, count: int, depth: int, uses: list[Use]) -> Iterator[tuple[str, Any]]:
        """Yield the tensor of a constant and the graphs of a node that has some, by name; `uses` gets what tells names."""
        texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
        attributes: list[Span] = []
        for number, wire, _, part in self.messages.fields(span):
            if wire == BYTES and number in texts:
                texts[number].append(self.messages.text(part))
            elif wire == BYTES and number == 5:
                attributes.append(part)
        inputs, output, name, kind = texts[1], *("".join(texts[n][:1]) for n in (2, 3, 4))
        turns = False
        for attribute in attributes:
            label, tensor, graphs, number = self._attribute(attribute)
            turns |= label == TURNS and number != 0
            if tensor is not None and kind == "Constant" and label == "value":
                found = read_initialiser(self.messages, tensor)
                found.name = output
                if (view := self._view(found)) is not None:
                    yield output, view
            for i, graph in enumerate(graphs):
                where = f"{name or f'{kind}_{count}'}.{label}{f'_{i}' if len(graphs) > 1 else ''}"
                inside = self.graph(graph, f"{path}{where}.", depth + 1)
                if inside:
                    yield where, inside
        if kind in KINDS:
            uses.append(Use(kind, name, inputs, output, turns))

    def _attribute(self, span: Span) -> tuple[str, Span | None, list[Span], int]:
        """Return the name of an attribute, and its tensor, graphs or whole number."""
        label, tensor, graphs, whole = "", None, [], 0
        once: set[int] = set()
        for number, wire, value, part in self.messages.fields(span):
            if wire == BYTES and number == 1:
                label = self.messages.text(part)
            elif wire == VARINT and number == 3:
                whole = value
            elif wire == BYTES and number in (5, 6) and number in once:  # the standard joins such messages into one
                raise self.window.corrupt(f"attribute {printable(label, 40)} at byte {span.at} has two values")
            elif wire == BYTES and number == 5:
                tensor = part
            elif wire == BYTES and number in (6, 11):
                graphs.append(part)
            once.add(number)
        return label, tensor, graphs, whole

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
