"""Walks over what came out of a pickle or out of memory: bounded in depth, sure to end, blind to foreign classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torchgraft.core.errors import CorruptCheckpointError, LimitExceededError
from torchgraft.reading.pickles.inert import Array, Stub, TensorRef, Unreadable
from torchgraft.reading.tensors.leaves import Held, Leaf, View

MAX_DEPTH = 200
FREE_WAYS = 10_000
MAX_WAYS = 64
_SCALARS = frozenset({str, int, float, bool, bytes, type(None), complex})


@dataclass(slots=True)
class Survey:
    """Which containers (by id) hold tensors, and whether any tensor is PyTorch's own."""

    holds: dict[int, bool]
    torch_tensors: bool = False


def children(node: Any) -> Iterable[tuple[Any, Any]]:
    """Return the named parts of a container or stand-in."""
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, (list, tuple)):
        return enumerate(node)
    if isinstance(node, Stub):
        return _stub_children(node)
    return ()


def _stub_children(node: Stub) -> list[tuple[Any, Any]]:
    out: list[tuple[Any, Any]] = [*node.items.items(), *enumerate(node.values)]
    state = node.state
    if isinstance(state, tuple) and len(state) == 2:
        state = (
            {**(state[0] or {}), **(state[1] or {})} if all(isinstance(s, (dict, type(None))) for s in state) else state
        )
    if isinstance(state, dict):
        out += state.items()
    elif state is not None:
        out.append(("state", state))
    if not out:
        out += enumerate(node.args)
    return out


def is_module(node: Any) -> bool:
    """Return whether `node` stands for an nn.Module, or for a TorchScript object, whose attributes are its tensors."""
    if not isinstance(node, Stub) or not isinstance(node.state, dict):
        return False
    return "_parameters" in node.state or "_modules" in node.state or node.kind.module.startswith("__torch__")


def module_parts(node: Stub) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Return the tensors and the submodules of a module, non-persistent buffers left out."""
    state = node.state
    if node.kind.module.startswith("__torch__"):
        tensors = [(k, v) for k, v in state.items() if type(v) in _TENSORS]
        return tensors, [(k, v) for k, v in state.items() if isinstance(v, Stub)]
    hidden = state.get("_non_persistent_buffers_set") or ()
    buffers = [(k, v) for k, v in _pairs(state.get("_buffers")) if k not in hidden]
    own = [*_pairs(state.get("_parameters")), *buffers]
    return [(k, v) for k, v in own if type(v) in _TENSORS], _pairs(state.get("_modules"))


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


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
        tensors, modules = module_parts(node)
        yield from ((f"{prefix}{name}", tensor) for name, tensor in tensors)
        todo += [(f"{prefix}{name}.", child, (*above, id(node))) for name, child in reversed(modules)]


def survey(tree: Any, label: str) -> Survey:
    """Return which containers hold tensors."""
    out = Survey({})
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
        tensors, modules = module_parts(node)
        return [*tensors, *modules]
    return children(node)


def _refuse_cycle(stack: list[tuple[Any, Any]], target: Any, label: str) -> None:
    """Raise unless the cycle goes through an object of a class: those may know their owner."""
    at = next(i for i, (node, _) in enumerate(stack) if node is target)
    if not any(isinstance(node, Stub) for node, _ in stack[at:]):
        raise CorruptCheckpointError(f"{label}: a cycle: a dictionary or list contains itself")


def is_tensor(value: Any) -> bool:
    """Return whether `value` is a tensor or the description of one."""
    return type(value) in _TENSORS or isinstance(value, Leaf)


def are_tensors(values: Iterable[Any]) -> bool:
    """Return whether all of `values` are tensors or descriptions of some."""
    kinds = set(map(type, values))
    return kinds <= _TENSORS or all(issubclass(kind, Leaf) for kind in kinds - _TENSORS)


_TENSORS = frozenset({TensorRef, Array, Unreadable, View, Held})  # the usual ones; the ABC is slow to ask
