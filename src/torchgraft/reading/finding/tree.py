"""The tree that came out of a file or out of memory: its containers, tensors and plain facts.

Every walk is bounded in depth and in size: a pickle may hold cycles, and the same container in many places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import CorruptCheckpointError, LimitExceededError
from torchgraft.core.facts import RESERVED
from torchgraft.reading.pickles.inert import Array, GlobalName, Stub, TensorRef, Unreadable, brief
from torchgraft.reading.tensors import HeldTensor, StoredTensor, TensorView

MAX_DEPTH = 200
FREE_WAYS = 10_000
MAX_WAYS = 64
MAX_TEXT = 4096
MAX_NODES = 2000
MAX_FACT_DEPTH = 24
_TENSORS = frozenset({TensorRef, Array, Unreadable, TensorView, HeldTensor})  # the usual ones; the ABC is slow to ask
_SCALARS = frozenset({str, int, float, bool, bytes, type(None), complex})


def is_tensor(value: Any) -> bool:
    """Return whether `value` is a tensor or the description of one."""
    return type(value) in _TENSORS or isinstance(value, StoredTensor)


def are_tensors(values: Iterable[Any]) -> bool:
    """Return whether all of `values` are tensors or descriptions of some."""
    kinds = set(map(type, values))
    return kinds <= _TENSORS or all(issubclass(kind, StoredTensor) for kind in kinds - _TENSORS)


def children(node: Any) -> Iterable[tuple[Any, Any]]:
    """Return the named parts of a container or stand-in."""
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, (list, tuple)):
        return enumerate(node)
    return _of_stub(node) if isinstance(node, Stub) else ()


def _of_stub(node: Stub) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = [*node.items.items(), *enumerate(node.values)]
    state = node.state
    if isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, (dict, type(None))) for part in state):
        state = {**(state[0] or {}), **(state[1] or {})}  # of an object with __slots__
    if isinstance(state, dict):
        found += state.items()
    elif state is not None:
        found.append(("state", state))
    return found or list(enumerate(node.args))


def is_module(node: Any) -> bool:
    """Return whether `node` stands for an nn.Module, or for a TorchScript object, whose attributes are its tensors."""
    if not isinstance(node, Stub) or not isinstance(node.state, dict):
        return False
    return "_parameters" in node.state or "_modules" in node.state or node.kind.module.startswith("__torch__")


def _module_parts(node: Stub) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Return the tensors and the submodules of a module, non-persistent buffers left out."""
    state = node.state
    if node.kind.module.startswith("__torch__"):
        tensors = [(k, v) for k, v in state.items() if type(v) in _TENSORS]
        return tensors, [(k, v) for k, v in state.items() if isinstance(v, Stub)]
    parameters, buffers, modules = (
        found if isinstance(found := state.get(name), dict) else {} for name in ("_parameters", "_buffers", "_modules")
    )
    hidden = state.get("_non_persistent_buffers_set") or ()
    own = [*parameters.items(), *((k, v) for k, v in buffers.items() if k not in hidden)]
    return [(k, v) for k, v in own if type(v) in _TENSORS], list(modules.items())


def module_entries(root: Stub, label: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, tensor) of a module in registration order."""
    todo: list[tuple[str, Any, tuple[int, ...]]] = [("", root, ())]
    while todo:
        prefix, node, above = todo.pop()
        if not isinstance(node, Stub) or not isinstance(node.state, dict):
            continue
        if id(node) in above:
            raise CorruptCheckpointError(f"{label}: a cycle of modules: {prefix} contains itself")
        if len(above) > MAX_DEPTH:
            raise LimitExceededError(f"{label}: modules nested to a depth of more than {MAX_DEPTH}")
        tensors, modules = _module_parts(node)
        yield from ((f"{prefix}{name}", tensor) for name, tensor in tensors)
        todo += [(f"{prefix}{name}.", child, (*above, id(node))) for name, child in reversed(modules)]


@dataclass(slots=True)
class Found:
    """Which containers (by id) hold tensors, and whether any tensor is PyTorch's own."""

    holds: dict[int, bool]
    torch_tensors: bool = False


def find_tensors(tree: Any, label: str) -> Found:
    """Return which containers hold tensors."""
    out = Found({})
    if type(tree) in _SCALARS or is_tensor(tree):
        return out
    holds, path, ways = out.holds, {id(tree)}, _Ways(label)
    stack: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [(tree, iter(_inner(tree)))]
    holds[id(tree)] = False
    while stack:
        node, rest = stack[-1]
        for _, child in rest:
            kind = type(child)
            if kind in _SCALARS:
                continue
            if is_tensor(child):
                holds[id(node)] = True
                ways.tensor(node)
                out.torch_tensors |= kind is not Array
                continue
            if id(child) in path:
                _refuse_cycle(stack, child, label)
                continue
            if id(child) in holds:
                holds[id(node)] |= holds[id(child)]
                ways.join(node, child)
                continue
            if len(stack) > MAX_DEPTH:
                raise LimitExceededError(f"{label}: nested to a depth of more than {MAX_DEPTH}")
            holds[id(child)] = False
            path.add(id(child))
            stack.append((child, iter(_inner(child))))
            break
        else:
            stack.pop()
            path.discard(id(node))
            if stack:
                holds[id(stack[-1][0])] |= holds[id(node)]
                ways.join(stack[-1][0], node)
    return out


class _Ways:
    """Counts the ways from each container to tensors, without going them: a container may be part of many others.

    Names are made for each way, so that a small file in which each list holds the one before it twice would have names
    without end.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.known: dict[int, int] = {}
        self.tensors = 0

    def tensor(self, node: Any) -> None:
        """Count a tensor directly in `node`."""
        self.tensors += 1
        self.known[id(node)] = self.known.get(id(node), 0) + 1

    def join(self, node: Any, child: Any) -> None:
        """Count those of a part of `node`."""
        count = self.known[id(node)] = self.known.get(id(node), 0) + self.known.get(id(child), 0)
        if count > FREE_WAYS and count > MAX_WAYS * self.tensors:
            raise LimitExceededError(
                f"{self.label}: more than {FREE_WAYS} ways to {self.tensors} tensors: containers are reused without end"
            )


def _inner(node: Any) -> Iterable[tuple[Any, Any]]:
    if is_module(node):
        tensors, modules = _module_parts(node)
        return [*tensors, *modules]
    return children(node)


def _refuse_cycle(stack: list[tuple[Any, Any]], target: Any, label: str) -> None:
    """Raise unless the cycle goes through an object of a class: those may know their owner."""
    at = next(i for i, (node, _) in enumerate(stack) if node is target)
    if not any(isinstance(node, Stub) for node, _ in stack[at:]):
        raise CorruptCheckpointError(f"{label}: a cycle: a dictionary or list contains itself")


_LEFT_OUT = object()


def plain_facts(value: Any, most: int = MAX_NODES) -> Any:
    """Return `value` as plain dicts, lists and scalars, `most` of them; None where it is larger or something else."""
    budget = _Budget(most)
    found = budget.plain(value, 0)
    return None if found is _LEFT_OUT or budget.left < 0 else found


def module_facts(module: Stub) -> Iterator[tuple[str, Any]]:
    """Yield what a whole module keeps beside its tensors that is plain and no single value: names of classes, options."""
    for name, value in module.state.items():
        if (
            not isinstance(name, str)
            or name.startswith("_")
            or name in RESERVED
            or isinstance(value, (bool, int, float, str))
        ):
            continue
        if fact := plain_facts(value):
            yield name, fact


class _Budget:
    def __init__(self, left: int) -> None:
        self.left = left

    def plain(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > MAX_FACT_DEPTH:
            return _LEFT_OUT
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return str(value) if len(value) <= MAX_TEXT else _LEFT_OUT
        if isinstance(value, (GlobalName, DType)):
            return str(value)
        if isinstance(value, Stub):
            return self._of_stub(value, depth)
        if not isinstance(value, (dict, list, tuple, set, frozenset)) or len(value) > self.left:
            return _LEFT_OUT
        if isinstance(value, dict):
            items = {_fact_key(k): self.plain(v, depth + 1) for k, v in value.items()}
            return {k: v for k, v in items.items() if v is not _LEFT_OUT}
        return [v for v in [self.plain(v, depth + 1) for v in value] if v is not _LEFT_OUT]

    def _of_stub(self, value: Stub, depth: int) -> Any:
        for part in (value.state if isinstance(value.state, dict) else None, value.items, value.values):
            if part:
                return self.plain(part, depth + 1)
        if value.args and value.kind.module in ("pathlib", "pathlib._local"):
            return _path_of(value)
        return self.plain(value.args[0], depth + 1) if len(value.args) == 1 else str(value.kind)


def _path_of(value: Stub) -> str:
    """Return a path as its own system writes it; its first part may be a root, which ends with a separator."""
    separator = "\\" if "Windows" in value.kind.name else "/"
    first, *rest = [a if isinstance(a, str) else brief(a) for a in value.args[:100]]
    return separator.join([first.removesuffix(separator), *rest]) if rest else first


def _fact_key(key: Any) -> Any:
    return key if isinstance(key, (str, int, float, bool)) else str(key)
