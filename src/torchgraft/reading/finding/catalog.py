"""Finds the state dicts in what a checkpoint holds, at any nesting, and names their tensors."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any, Protocol

from torchgraft.core.errors import (
    CorruptCheckpointError,
    LimitExceededError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
    printable,
)
from torchgraft.core.facts import RESERVED
from torchgraft.core.specs import Network, Shape, TensorSpec
from torchgraft.core.system.making import maker
from torchgraft.reading.finding.plain import kept
from torchgraft.reading.finding.roles import are_moments, is_counter, is_optimizer, role_of
from torchgraft.reading.finding.walk import are_tensors, children, is_module, is_tensor, module_entries, survey
from torchgraft.reading.pickles.inert import Array, Name, Py2Text, Record, Stub
from torchgraft.reading.tensors.leaves import Leaf, View

_make_spec = maker(TensorSpec)
MAX_ENTRIES = 20_000_000
MAX_PARTS = 1000  # of a name, between dots or slashes; those of real models have ten
ENDLESS = re.compile(r"\d{1000}")
LONG_KEY = 1000
PART = 200_000


class Resolve(Protocol):
    """Makes a leaf out of a description."""

    def leaf(self, ref: Any, name: str) -> Leaf:
        """Return the tensor called `name`, the same one for the same `ref`."""
        ...


class AsIs:
    """For trees whose tensors are leaves already."""

    def leaf(self, ref: Any, name: str) -> Leaf:
        """Return `ref`."""
        del name
        found: Leaf = ref
        return found


@dataclass(slots=True)
class Catalog:
    """All networks of a checkpoint with their leaves, and what lies beside them."""

    networks: list[Network] = field(default_factory=list)
    leaves: dict[str, dict[str, Leaf]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


Entries = Collection[tuple[str, Any]]


def catalogue(tree: Any, resolve: Resolve, label: str, foreign: Iterable[str] = ()) -> Catalog:
    """Return the networks in `tree`."""
    return _Cataloguer(resolve, label).run(tree, tuple(foreign))


class _Cataloguer:
    def __init__(self, resolve: Resolve, label: str) -> None:
        self.resolve = resolve
        self.label = label
        self.out = Catalog()
        self.holds: Mapping[int, bool] = {}
        self.count = 0
        self.odd: dict[str, str] = {}
        self.arrays_count = True
        self.again: dict[str, int] = {}

    def run(self, tree: Any, foreign: tuple[str, ...]) -> Catalog:
        found = survey(tree, self.label)
        self.holds = found.holds
        self.arrays_count = not found.torch_tensors
        if foreign:
            self.out.metadata["foreign_classes"] = list(foreign)
        if is_tensor(tree) or (isinstance(tree, (list, tuple)) and tree and all(is_tensor(v) for v in tree)):
            raise UnsupportedCheckpointError(
                f"{self.label}: no state dict, but {'a bare tensor' if is_tensor(tree) else 'a list of tensors'} "
                "without names; expected a dictionary of named tensors"
            )
        if self.holds.get(id(tree)) and is_optimizer(tree):
            self._flat(tree, (), "optimizer", ())
        elif self.holds.get(id(tree)):
            self._emit(tree, (), "model", ())
        if not self.out.networks:
            raise self._nothing(tree, foreign)
        self._warn_odd()
        return self.out

    def _nothing(self, tree: Any, foreign: tuple[str, ...]) -> Exception:
        if foreign:
            named = ", ".join(foreign[:4])
            return UnsafeCheckpointError(
                f"{self.label}: no tensors that can be read; it holds objects of {named}, which only their own code "
                "could restore. Nothing was run. Expected a state dict"
            )
        if isinstance(tree, (dict, list, tuple, Stub)):
            return UnsupportedCheckpointError(
                f"{self.label}: no tensors in it, so no state dict; expected a dictionary of named tensors"
            )
        return UnsupportedCheckpointError(
            f"{self.label}: no state dict, but {_kind(tree)}; expected a dictionary of named tensors"
        )

    # -- the walk; depth was bounded by survey()

    def _emit(self, node: Any, path: tuple[str, ...], role: str, above: tuple[int, ...]) -> Entries:
        """Add the networks in `node`; return its tensors by joined names, for a joined ancestor."""
        if id(node) in above:
            return []
        if is_module(node):
            entries = list(module_entries(node, self.label))
            self._add(path, entries, role)
            return entries
        self._note(node, path, role)
        direct, parts, aside = self._split(node, role)
        slot = len(self.out.networks)
        inside: list[tuple[str, Entries]] = []
        for key, value, kind in parts:
            if kind in ("optimizer", "other"):
                self._flat(value, (*path, key), kind, (*above, id(node)))
            else:
                inside.append((key, self._emit(value, (*path, key), kind, (*above, id(node)))))
        joined = (
            [*direct, *((f"{key}.{name}", leaf) for key, found in inside for name, leaf in found)] if inside else direct
        )
        whole = bool(direct) or len(inside) > 1
        if aside:
            self._add((*path, "(beside)") if whole else path, aside, "other", slot)
        if whole:
            self._add(path, joined, role, slot)
        return joined

    def _flat(self, node: Any, path: tuple[str, ...], role: str, above: tuple[int, ...]) -> None:
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
                self._note_optimizer(value, path, prefix)
            if is_module(value):
                entries += [(prefix + name, leaf) for name, leaf in module_entries(value, self.label)]
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
        """Return the tensors directly in `node`, its parts that hold some, and tensors that are not the model's."""
        named = type(node) is Record and set(map(type, node)) <= {str}
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
        aside: list[tuple[str, Any]] = []
        if parts:
            aside = [(k, v) for k, v in direct if _stray(k, v, arrays=self.arrays_count)]
            direct = [(k, v) for k, v in direct if not _stray(k, v, arrays=self.arrays_count)]
        return direct, parts, aside

    def _add(self, path: tuple[str, ...], entries: Entries, role: str, at: int | None = None) -> None:
        where = self._free_path("/".join(path))
        self._count(len(entries))
        resolve = self.resolve.leaf
        leaves = {name: ref if type(ref) is View else resolve(ref, name) for name, ref in entries}
        if len(leaves) < len(entries):
            name = next(name for name, count in Counter([name for name, _ in entries]).items() if count > 1)
            raise CorruptCheckpointError(f"{self.label}: two tensors would both be called {printable(name)!r}")
        self._check_names(name for name in leaves if len(name) > MAX_PARTS)
        for shape in {leaf.shape for leaf in leaves.values()}:
            if 0 in shape:
                self._check_empty(leaves, shape)
        specs = {name: _make_spec(name, leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
        if role == "model" and are_moments(specs):
            role = "optimizer"
        network = Network(where, specs, role, _shared(leaves) or None)
        self.out.networks.insert(len(self.out.networks) if at is None else at, network)
        self.out.leaves[where] = leaves

    def _check_names(self, names: Iterable[str]) -> None:
        """Refuse names whose parts or digits are so many that comparing them takes hours."""
        for name in names:
            parts = 1 + name.count(".") + name.count("/")
            if parts > MAX_PARTS or ENDLESS.search(name):
                what = f"{parts} parts" if parts > MAX_PARTS else "a number of a thousand digits"
                raise LimitExceededError(
                    f"{self.label}: tensor {printable(name, 60)} has a name with {what}, which no model gives"
                )

    def _check_empty(self, leaves: Mapping[str, Leaf], shape: Shape) -> None:
        """Refuse shapes that no tensor can have, though they take no bytes: their strides would not fit 64 bits."""
        if prod(max(n, 1) for n in shape) >= 1 << 63:
            name = next(name for name, leaf in leaves.items() if leaf.shape == shape)
            raise CorruptCheckpointError(
                f"{self.label}: tensor {printable(name)} has the shape {shape!s:.80}, too large for any tensor"
            )

    def _free_path(self, path: str) -> str:
        found = path
        while found in self.out.leaves:
            self.again[path] = self.again.get(path, 1) + 1
            found = f"{path}#{self.again[path]}"
        return found

    def _count(self, more: int) -> None:
        self.count += more
        if self.count > MAX_ENTRIES:
            raise LimitExceededError(
                f"{self.label}: more than {MAX_ENTRIES} ways to its tensors (one is reused without end)"
            )

    def _note(self, node: Any, path: tuple[str, ...], role: str) -> None:
        """Keep the plain facts beside the tensors, and the versions of a state dict."""
        if isinstance(node, Record) and node.attributes and isinstance(node.attributes.get("_metadata"), dict):
            versions = kept(node.attributes["_metadata"], 200_000)
            self.out.metadata.setdefault("versions", {})["/".join(path)] = versions
        if role in ("optimizer", "other"):
            return
        for key, value in children(node):
            if not is_tensor(value) and not self.holds.get(id(value)) and not isinstance(node, (list, tuple)):
                name = "/".join([*path, str(key)])
                name = f"{name} (beside)" if name in RESERVED else name
                fact = kept(value)
                if fact is not None:
                    self.out.metadata.setdefault(name, fact)
                elif value is not None:
                    self.out.metadata.setdefault("left_out", []).append(name)

    def _note_optimizer(self, node: Any, path: tuple[str, ...], prefix: str) -> None:
        """Keep an optimizer's groups, and those parts of its state that are plain numbers: what names can't tell."""
        if not isinstance(node, dict) or not isinstance(node.get("param_groups"), (list, tuple)):
            return
        groups = kept(node["param_groups"], 200_000)
        numbers: dict[str, dict[str, float]] = {}
        for who, state in children(node.get("state")):
            plain = {str(k): v for k, v in children(state) if isinstance(v, (int, float)) and not isinstance(v, bool)}
            if plain:
                numbers[str(who)] = plain
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
                self.odd["not UTF-8"] = name = raw.decode("latin-1")
                return name
        if is_tensor(key):
            raise CorruptCheckpointError(f"{self.label}: a tensor stands where the name of one belongs")
        self.odd["no text"] = str(key)
        return str(key)

    def _warn_odd(self) -> None:
        out = self.out.warnings
        out += [f"there are keys that are {why}, as {printable(key, 60)}" for why, key in self.odd.items()]
        found = self.out.leaves.values()
        names = next(iter(found)) if len(found) == 1 else {name for leaves in found for name in leaves}
        text = "".join(names)
        if not text.isprintable():
            odd = sorted(n for n in names if not n.isprintable())
            shown = ", ".join(printable(n, 60) for n in odd[:4])
            out.append(f"{len(odd)} keys hold characters that can't be printed, as {shown}")
        if "" in names:
            out.append("there is a tensor whose key is empty")
        if names and len(longest := max(names, key=len)) > LONG_KEY:
            out.append(f"there are keys of up to {len(longest)} characters, as {printable(longest, 60)}")
        if not text.isascii():
            forms = {unicodedata.normalize("NFC", n) for n in names if not n.isascii()}
            count = sum(not n.isascii() for n in names)
            if len(forms) != count:
                out.append(f"{count - len(forms)} keys differ from others in their Unicode form only")


def _shared(leaves: Mapping[str, Leaf]) -> dict[str, str]:
    """Return which names have the very same memory as an earlier one, and its name.

    Views of different runs of bytes have not.
    Identities are compared where their hashes meet: to keep a million of them would take more memory than the tensors.
    """
    if set(map(type, leaves.values())) <= {View}:
        runs = {id(leaf.source) for leaf in leaves.values() if isinstance(leaf, View)}
        if len(runs) == len(leaves):
            return {}
        del runs
    hashes = array("q", (hash(leaf.identity) for leaf in leaves.values()))
    meet: set[int] = set()
    parts = 1 + len(hashes) // PART  # one after the other, for the memory's sake
    for part in range(parts):
        order = sorted([h for h in hashes if h % parts == part] if parts > 1 else hashes)
        meet.update(a for a, b in pairwise(order) if a == b)
    if not meet:
        return {}
    first: dict[Any, str] = {}
    shared: dict[str, str] = {}
    for (name, leaf), found in zip(leaves.items(), hashes, strict=True):
        identity = leaf.identity if found in meet and 0 not in leaf.shape else None
        if identity is not None:
            before = first.setdefault(identity, name)
            if before is not name:
                shared[name] = before
    return shared


def _stray(key: str, ref: Any, *, arrays: bool) -> bool:
    if isinstance(ref, Array) and not arrays:
        return True
    shape = getattr(ref, "shape", ())
    numel = 1
    for n in shape if isinstance(shape, tuple) else ():
        numel *= n if isinstance(n, int) else 1
    return is_counter(key, numel)


def _kind(tree: Any) -> str:
    return f"the name {tree}" if isinstance(tree, Name) else f"a value of type {type(tree).__name__}"
