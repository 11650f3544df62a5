"""Finds the state dicts in what a checkpoint holds, at any nesting, and names their tensors."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torchgraft.core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    LimitExceededError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
    printable,
)
from torchgraft.core.facts import RESERVED
from torchgraft.core.formatting import counted
from torchgraft.core.specs import Network, TensorSpec
from torchgraft.core.system.fast_objects import maker
from torchgraft.reading.contents import Contents
from torchgraft.reading.finding.roles import are_generators, are_moments, is_counter, is_optimizer, role_of
from torchgraft.reading.finding.second_names import second_names
from torchgraft.reading.finding.tree import (
    are_tensors,
    children,
    find_tensors,
    is_module,
    is_tensor,
    module_entries,
    module_facts,
    plain_facts,
)
from torchgraft.reading.pickles.inert import Array, GlobalName, PickledDict, Py2Text, Stub, Unreadable
from torchgraft.reading.tensors import StoredTensor, TensorView

_make_spec = maker(TensorSpec)
MAX_ENTRIES = 20_000_000
MAX_PARTS = 1000  # of a name, between dots or slashes; those of real models have ten
LONG_NUMBER = re.compile(r"\d{1000}")
LONG_KEY = 1000
MAX_FACTS = 200_000  # of an optimizer's groups, and of the versions of a state dict

Entries = Collection[tuple[str, Any]]


@dataclass(slots=True)
class Catalog:
    """All networks of a checkpoint with their tensors, and what lies beside them."""

    networks: list[Network] = field(default_factory=list)
    tensors: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def catalogue(contents: Contents, label: str) -> Catalog:
    """Return the networks in what a reader found, and its facts and warnings."""
    found = _Cataloguer(contents, label).run()
    found.metadata = {**contents.metadata, **found.metadata}
    found.warnings = [*contents.warnings, *found.warnings]
    return found


class _Cataloguer:
    def __init__(self, contents: Contents, label: str) -> None:
        self.contents = contents
        self.label = label
        self.out = Catalog()
        found = find_tensors(contents.tree, label)
        self.holds = found.holds
        self.only_arrays = not found.torch_tensors
        self.count = 0
        self.odd_keys: dict[str, str] = {}
        self.left_out: dict[int, CheckpointError] = {}
        self.copies: dict[str, int] = {}

    def run(self) -> Catalog:
        tree = self.contents.tree
        if self.contents.foreign:
            self.out.metadata["foreign_classes"] = list(self.contents.foreign)
        if is_tensor(tree) or (isinstance(tree, (list, tuple)) and tree and all(is_tensor(v) for v in tree)):
            raise UnsupportedCheckpointError(
                f"{self.label}: no state dict, but {'a bare tensor' if is_tensor(tree) else 'a list of tensors'} "
                "without names; expected a dictionary of named tensors"
            )
        if self.holds.get(id(tree)) and is_optimizer(tree):
            self._add_flat(tree, (), "optimizer", ())
        elif self.holds.get(id(tree)):
            self._add_nested(tree, (), "model", ())
        if not self.out.networks:
            raise self._nothing_found()
        if self.left_out:
            first = str(next(iter(self.left_out.values()))).removeprefix(f"{self.label}: ")
            self.out.warnings.append(f"left out {counted(len(self.left_out), 'value')} beside the weights, as {first}")
        self._warn_of_names()
        return self.out

    def _nothing_found(self) -> Exception:
        tree, foreign = self.contents.tree, self.contents.foreign
        if self.left_out:
            return next(iter(self.left_out.values()))
        if foreign:
            return UnsafeCheckpointError(
                f"{self.label}: no tensors that can be read; it holds objects of {', '.join(foreign[:4])}, which only "
                "their own code could restore. Nothing was run. Expected a state dict"
            )
        if isinstance(tree, (dict, list, tuple, Stub)):
            found = "no tensors in it, so no state dict"
        else:
            kind = f"the name {tree}" if isinstance(tree, GlobalName) else f"a value of type {type(tree).__name__}"
            found = f"no state dict, but {kind}"
        return UnsupportedCheckpointError(f"{self.label}: {found}; expected a dictionary of named tensors")

    # -- the walk; its depth was bounded by find_tensors()

    def _add_nested(self, node: Any, path: tuple[str, ...], role: str, above: tuple[int, ...]) -> Entries:
        """Add the networks in `node`; return its tensors by joined names, for a joined ancestor."""
        if id(node) in above:
            return []
        if is_module(node):
            entries = list(module_entries(node, self.label))
            self._add(path, entries, role)
            for name, fact in module_facts(node):
                self.out.metadata.setdefault("/".join([*path, name]), fact)
            return entries
        self._keep_facts(node, path, role)
        direct, parts, counters = self._split(node, role)
        first = len(self.out.networks)
        inside: list[tuple[str, Entries]] = []
        for key, value, kind in parts:
            if kind in ("optimizer", "other"):
                self._add_flat(value, (*path, key), kind, (*above, id(node)))
            else:
                inside.append((key, self._add_nested(value, (*path, key), kind, (*above, id(node)))))
        joined = (
            [*direct, *((f"{key}.{name}", tensor) for key, found in inside for name, tensor in found)]
            if inside
            else direct
        )
        whole = bool(direct) or len(inside) > 1
        if counters:
            self._add((*path, "(beside)") if whole else path, counters, "other", first)
        if whole:
            self._add(path, joined, role, first)
        return joined

    def _add_flat(self, node: Any, path: tuple[str, ...], role: str, above: tuple[int, ...]) -> None:
        """Add one network of all tensors below `node`."""
        if is_tensor(node):
            self._add(path, [("", node)], role)
            return
        entries: list[tuple[str, Any]] = []
        todo: list[tuple[str, Any, tuple[int, ...]]] = [("", node, above)]
        while todo:
            prefix, value, ids = todo.pop()
            if id(value) in ids:
                continue
            if role == "optimizer":
                self._keep_optimizer(value, path, prefix)
            if is_module(value):
                entries += [(prefix + name, tensor) for name, tensor in module_entries(value, self.label)]
                continue
            found = []
            for number, (key, child) in enumerate(children(value)):
                key = number if is_tensor(key) else key  # noqa: PLW2901  # of an optimizer as a whole: its parameters
                if is_tensor(child):
                    entries.append((f"{prefix}{key}", child))
                elif self.holds.get(id(child)):
                    found.append((f"{prefix}{key}.", child, (*ids, id(value))))
            todo += found[::-1]
            self._count(len(found) + 1)
        if entries:
            self._add(path, entries, role)

    def _split(self, node: Any, role: str) -> tuple[Entries, list[tuple[str, Any, str]], Entries]:
        """Return the tensors directly in `node`, its parts that hold some, and tensors that count for the training loop."""
        named = type(node) is PickledDict and set(map(type, node)) <= {str}
        if named and are_tensors(node.values()):
            return node.items(), [], ()
        direct: list[tuple[str, Any]] = []
        parts: list[tuple[str, Any, str]] = []
        holds = self.holds
        seen: set[str] | None = None if named else set()
        numbered = not isinstance(node, (dict, Stub))
        for key, value in children(node):
            tensor = is_tensor(value)
            if not tensor and not holds.get(id(value)):
                continue
            name = key if type(key) is str else str(key) if numbered else self._name(key)
            if seen is not None:  # else the dictionary's own keys are the names
                if name in seen:
                    raise CorruptCheckpointError(f"{self.label}: two keys are both written {printable(name)!r}")
                seen.add(name)
            if tensor:
                direct.append((name, value))
            else:
                parts.append((name, value, role_of(name, value, role)))
        if not parts:
            return direct, parts, ()
        direct = [(key, value) for key, value in direct if type(value) is not Unreadable or self._fits(key, value)]
        counters = [(key, value) for key, value in direct if self._is_counter(key, value)]
        weights = [(key, value) for key, value in direct if not self._is_counter(key, value)]
        return weights, parts, counters

    def _is_counter(self, key: str, ref: Any) -> bool:
        """Whether a tensor beside state dicts is the training loop's; numpy's arrays are, where torch's tensors are weights."""
        if isinstance(ref, Array) and not self.only_arrays:
            return True
        shape = getattr(ref, "shape", ())
        return is_counter(key, prod(n for n in shape if isinstance(n, int)) if isinstance(shape, tuple) else 1)

    def _add(self, path: tuple[str, ...], entries: Entries, role: str, at: int | None = None) -> None:
        entries = self._readable(entries, role)
        if not entries:
            return
        where = self._free_path("/".join(path))
        self._count(len(entries))
        resolve = self.contents.resolve.tensor
        tensors = {name: ref if type(ref) is TensorView else resolve(ref, name) for name, ref in entries}
        if len(tensors) < len(entries):
            name = next(name for name, count in Counter([name for name, _ in entries]).items() if count > 1)
            raise CorruptCheckpointError(f"{self.label}: two tensors would both be called {printable(name)!r}")
        self._check_sizes(tensors)
        specs = {name: _make_spec(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        if role == "model" and are_moments(specs):
            role = "optimizer"
        if role == "model" and are_generators(specs.values()):
            role = "other"
        network = Network(where, specs, role, second_names(tensors) or None)
        self.out.networks.insert(len(self.out.networks) if at is None else at, network)
        self.out.tensors[where] = tensors

    def _readable(self, entries: Entries, role: str) -> Entries:
        """Return `entries` without arrays that are no tensors, such as texts; nothing where some kind of tensor is not read.

        In the weights themselves such a tensor is no reason to leave all out, but an error once it is asked for.
        """
        kinds = {type(ref) for _, ref in entries}
        if Array in kinds:
            entries = [entry for entry in entries if type(entry[1]) is not Array or self._fits(*entry)]
        if Unreadable in kinds and role in ("optimizer", "other"):
            return (
                []
                if [entry for entry in entries if type(entry[1]) is Unreadable and not self._fits(*entry)]
                else entries
            )
        return entries

    def _fits(self, name: str, ref: Any) -> bool:
        """Return whether a tensor can be read; one that can't is noted as left out."""
        if id(ref) in self.left_out:
            return False
        try:
            self.contents.resolve.tensor(ref, name)
        except (UnsupportedCheckpointError, UnsafeCheckpointError) as error:
            self.left_out[id(ref)] = error
            return False
        return True

    def _check_sizes(self, tensors: Mapping[str, StoredTensor]) -> None:
        """Refuse names with so many parts or digits that comparing them would take hours, and impossible shapes.

        The shapes are those of empty tensors, whose strides would not fit 64 bits: others are too large for their file.
        """
        for name in tensors:
            if len(name) <= MAX_PARTS:
                continue
            parts = 1 + name.count(".") + name.count("/")
            if parts > MAX_PARTS or LONG_NUMBER.search(name):
                what = f"{parts} parts" if parts > MAX_PARTS else "a number of a thousand digits"
                raise LimitExceededError(
                    f"{self.label}: tensor {printable(name, 60)} has a name with {what}, which no model gives"
                )
        for shape in {tensor.shape for tensor in tensors.values()}:
            if 0 in shape and prod(max(n, 1) for n in shape) >= 1 << 63:
                name = next(name for name, tensor in tensors.items() if tensor.shape == shape)
                raise CorruptCheckpointError(
                    f"{self.label}: tensor {printable(name)} has the shape {shape!s:.80}, too large for any tensor"
                )

    def _free_path(self, path: str) -> str:
        found = path
        while found in self.out.tensors:
            self.copies[path] = self.copies.get(path, 1) + 1
            found = f"{path}#{self.copies[path]}"
        return found

    def _count(self, more: int) -> None:
        self.count += more
        if self.count > MAX_ENTRIES:
            raise LimitExceededError(
                f"{self.label}: more than {MAX_ENTRIES} ways to its tensors (one is reused without end)"
            )

    def _keep_facts(self, node: Any, path: tuple[str, ...], role: str) -> None:
        """Keep the plain facts beside the tensors, and the versions of a state dict."""
        if isinstance(node, PickledDict) and node.attributes and isinstance(node.attributes.get("_metadata"), dict):
            versions = plain_facts(node.attributes["_metadata"], MAX_FACTS)
            self.out.metadata.setdefault("versions", {})["/".join(path)] = versions
        if role in ("optimizer", "other"):
            return
        for key, value in children(node):
            if not is_tensor(value) and not self.holds.get(id(value)) and not isinstance(node, (list, tuple)):
                name = "/".join([*path, str(key)])
                name = f"{name} (beside)" if name in RESERVED else name
                fact = plain_facts(value)
                if fact is not None:
                    self.out.metadata.setdefault(name, fact)
                elif value is not None:
                    self.out.metadata.setdefault("left_out", []).append(name)

    def _keep_optimizer(self, node: Any, path: tuple[str, ...], prefix: str) -> None:
        """Keep an optimizer's groups, and those parts of its state that are plain numbers: what names can't tell."""
        if not isinstance(node, dict) or not isinstance(node.get("param_groups"), (list, tuple)):
            return
        groups = plain_facts(node["param_groups"], MAX_FACTS)
        numbers: dict[str, dict[str, float]] = {}
        for who, state in children(node.get("state")):
            found = {str(k): v for k, v in children(state) if isinstance(v, (int, float)) and not isinstance(v, bool)}
            if found:
                numbers[str(who)] = found
        facts = {"param_groups": groups, "numbers": numbers} if numbers else {"param_groups": groups}
        self.out.metadata.setdefault("optimizers", {}).setdefault("/".join(path), {})[prefix] = facts

    # -- names

    def _name(self, key: Any) -> str:
        """Return a key as text; keys that are none are noted."""
        if type(key) is str:
            return key
        if isinstance(key, (bytes, Py2Text)):
            raw = key if isinstance(key, bytes) else key.encode("latin-1")
            try:
                return raw.decode()
            except UnicodeDecodeError:
                self.odd_keys["not UTF-8"] = name = raw.decode("latin-1")
                return name
        if is_tensor(key):
            raise CorruptCheckpointError(f"{self.label}: a tensor stands where the name of one belongs")
        self.odd_keys["no text"] = str(key)
        return str(key)

    def _warn_of_names(self) -> None:
        out = self.out.warnings
        out += [f"there are keys that are {why}, as {printable(key, 60)}" for why, key in self.odd_keys.items()]
        found = self.out.tensors.values()
        out += _odd_names(next(iter(found)) if len(found) == 1 else {name for tensors in found for name in tensors})


def _odd_names(names: Collection[str]) -> Iterator[str]:
    """Yield what is odd about names: empty, very long, or with characters that mislead who reads them."""
    text = "".join(names)
    if not text.isprintable():
        odd = sorted(n for n in names if not n.isprintable())
        shown = ", ".join(printable(n, 60) for n in odd[:4])
        yield f"{counted(len(odd), 'key')} with characters that can't be printed, as {shown}"
    if "" in names:
        yield "there is a tensor whose key is empty"
    if names and len(longest := max(names, key=len)) > LONG_KEY:
        yield f"there are keys of up to {len(longest)} characters, as {printable(longest, 60)}"
    if not text.isascii():
        beyond = [n for n in names if not n.isascii()]
        forms = {unicodedata.normalize("NFC", n) for n in beyond}
        if len(forms) != len(beyond):
            yield f"{len(beyond) - len(forms)} keys differ from others in their Unicode form only"
