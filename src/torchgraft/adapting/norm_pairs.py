"""Which batch norm of a file stands behind which layer: told by order and by names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torchgraft.core.names import parent_of, words
from torchgraft.core.registration import as_registered
from torchgraft.core.specs import TensorSpec

NORM = ("weight", "bias", "running_mean", "running_var")
# What torch.nn.BatchNorm adds to a variance unless told otherwise.
EPS = 1e-5
# Words of what a module is, set aside where its name is to say which one it is.
_KINDS = frozenset({"batch", "batchnorm", "bn", "norm", "conv", "convolution", "fc", "layer", "lin", "linear"})
_NUMBER = re.compile(r"\d*$")


@dataclass(frozen=True, slots=True)
class NormPair:
    """A layer and the norm behind it, by their paths; `by_name` where names alone tell it."""

    layer: str
    norm: str
    by_name: bool


@dataclass(frozen=True, slots=True)
class NormPairs:
    """The norms of a file with the layers that they stand behind.

    `alone` are the others, each with layers that it may belong to.
    """

    pairs: tuple[NormPair, ...]
    alone: Mapping[str, Sequence[str]]


def stated_eps(asked: float) -> float | None:
    """Return the eps that an option gives with its number, None for True, which only says that norms are to be folded."""
    return None if asked is True else float(asked)


def roles_by_module(specs: Iterable[str]) -> dict[str, list[str]]:
    """Return what tensors each module has, by its path and the last segments of their names, in the order of the file."""
    owners: dict[str, list[str]] = {}
    for key in specs:
        owner, dot, role = key.rpartition(".")
        if dot:  # what is the model itself stands behind nothing
            owners.setdefault(owner, []).append(role)
    return owners


def is_norm(roles: Iterable[str]) -> bool:
    """Return whether a module with such tensors is a norm with statistics."""
    return {"running_mean", "running_var"} <= set(roles)


def norm_pairs(specs: Mapping[str, TensorSpec]) -> NormPairs:
    """Return each norm with statistics that stands behind a layer, at most one behind each.

    The layer is the one right before the norm. Names tell in a file that has lost its order, and where a model registers its
    layers first and then its norms: bn1 is conv1's also behind conv2. Where all norms of a module stand before the layers of
    their names, as in DenseNet, names say nothing of the layers behind which they are.
    """
    owners = roles_by_module(specs)
    sides = _Sides(specs, owners, {owner for owner, roles in owners.items() if is_norm(roles)})
    found = [NormPair(layer, norm, by_name) for norm in sides.norms for layer, by_name in sides.before(norm)]
    claimed = Counter(pair.layer for pair in found)
    pairs = tuple([pair for pair in found if claimed[pair.layer] == 1])
    told = {one for pair in pairs for one in (pair.layer, pair.norm)}
    alone = {
        norm: [layer for layer in sides.possible(norm) if layer not in told] for norm in sides.norms if norm not in told
    }
    return NormPairs(pairs, alone)


class _Sides:
    """The layers and the norms of a file, in its order."""

    def __init__(self, specs: Mapping[str, TensorSpec], owners: Mapping[str, Sequence[str]], norms: set[str]) -> None:
        self._specs, self._norms = specs, norms
        self._places = list(owners)
        self._at = {owner: at for at, owner in enumerate(owners)}
        self._ordered = as_registered((key, spec.dtype) for key, spec in specs.items())
        self._layers = {
            owner
            for owner, roles in owners.items()
            if owner not in norms and "weight" in roles and len(specs[f"{owner}.weight"].shape) > 1
        }
        self._beside: dict[str, list[str]] = {}
        for layer in self._layers:
            self._beside.setdefault(parent_of(layer), []).append(layer)
        self.norms = [owner for owner in owners if owner in norms]
        self._twins = self._told([(twin, norm) for norm in self.norms if (twin := self._twin(norm))])

    def before(self, norm: str) -> Iterator[tuple[str, bool]]:
        """Yield the layer that a norm stands behind, and whether names alone tell it; nothing where it isn't known."""
        ahead, twin = self._ahead(norm), self._twins.get(norm)
        if twin and not self._is_later(twin, norm):
            yield twin, twin != ahead
        elif ahead and not twin:
            yield ahead, False

    def possible(self, norm: str) -> list[str]:
        """Return the layers beside a norm that it may stand behind, by their channels."""
        return [layer for layer in self._beside.get(parent_of(norm), ()) if self._fit(layer, norm)]

    def _told(self, twins: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Return norm -> the layer of the same name, left out where norms of the same module stand before their layers."""
        if sum(self._side(twin, norm) for twin, norm in twins) < 0:
            return {}
        behind = {parent_of(norm) for twin, norm in twins if not self._is_later(twin, norm)}
        return {norm: twin for twin, norm in twins if parent_of(norm) in behind and self._fit(twin, norm)}

    def _is_later(self, layer: str, norm: str) -> bool:
        return self._ordered and self._at[layer] > self._at[norm]

    def _ahead(self, norm: str) -> str | None:
        """Return the layer right before a norm, None where order doesn't tell: several layers, then several norms."""
        at = self._at[norm]
        layer = self._places[at - 1] if self._ordered and at else ""
        if layer not in self._layers or not self._fit(layer, norm):
            return None
        before, behind = self._places[max(at - 2, 0) : at - 1], self._places[at + 1 : at + 2]
        layers = [one for one in before if one in self._layers and parent_of(one) == parent_of(norm)]
        norms = [one for one in behind if one in self._norms and parent_of(one) == parent_of(norm)]
        return None if layers and norms else layer

    def _fit(self, layer: str, norm: str) -> bool:
        """Return whether a norm can stand right behind a layer: as many channels, and nothing between them in a sequence."""
        above, _, place = layer.rpartition(".")
        parent, _, number = norm.rpartition(".")
        if above == parent and place.isdecimal() and number.isdecimal() and int(number) != int(place) + 1:
            return False
        shape, channels = self._specs[f"{layer}.weight"].shape, self._specs[f"{norm}.running_var"].shape
        return shape[:1] == channels or (len(shape) > 2 and shape[1:2] == channels)

    def _side(self, layer: str, norm: str) -> int:
        """Return 1 where only the outputs of a layer are as many as the channels of a norm, -1 where only its inputs are, else 0."""
        shape, channels = self._specs[f"{layer}.weight"].shape, self._specs[f"{norm}.running_var"].shape
        return (shape[:1] == channels) - (shape[1:2] == channels)

    def _twin(self, norm: str) -> str | None:
        """Return the layer beside a norm that is called as it is: conv2 of bn2, 0 of 1; None if in question."""
        parent, _, last = norm.rpartition(".")
        beside = {layer.rpartition(".")[2]: layer for layer in self._beside.get(parent, ())}
        if last.isdecimal():
            return beside.get(str(int(last) - 1))
        named = [name for name in beside if not name.isdecimal()]
        which = _which(last)
        ways = (
            [name for name in named if _which(name) == which],
            [name for name in named if which and {*which} < {*_which(name)}],
            [name for name in named if _NUMBER.findall(name)[0] == _NUMBER.findall(last)[0]],
        )
        return next((beside[alike[0]] for alike in ways if len(alike) == 1), None)


def _which(name: str) -> tuple[str, ...]:
    """Return the words that tell a module from others of its kind: `a` of `conv_a` and of `bn_a`."""
    return tuple(word for word in words(name) if word not in _KINDS)
