"""Configs side by side: objects of settings that modules were built from and keep, and that they may read while they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torchgraft.core.places import modules
from torchgraft.core.results.verification import Cause
from torchgraft.core.types import Module
from torchgraft.verifying.explaining.settings import ModulePair

_LONGEST = 120  # characters of a value that is worth showing


def config_causes(target: Module, source: Module, pairs: Sequence[ModulePair]) -> Iterator[Cause]:
    """Yield what differs in the configs of matched modules, outermost first, each difference once.

    Not all that a config says has an effect: these are for where nothing surer is found.
    """
    targets, sources = dict(modules(target)), dict(modules(source))
    seen: set[tuple[int, int]] = set()  # modules mostly share the config of the whole
    told: set[tuple[str, object]] = set()
    for pair in pairs:
        ours, theirs = vars(targets[pair.target]), vars(sources[pair.source])
        for name, config in ours.items():
            other = theirs.get(name)
            if not _is_config(config) or type(config) is not type(other) or (id(config), id(other)) in seen:
                continue
            seen.add((id(config), id(other)))
            for key, values in _differences(config, other):
                if (key, values) in told:
                    continue
                told.add((key, values))
                yield Cause(
                    kind="setting",
                    text=f"{name} of {pair.target or 'the model itself'}: {key} is {values[0]}, in the source {values[1]}",
                    remedy=f"build the model with {key} {values[1]}, if that has a part in it",
                    module=pair.target,
                    source_module=pair.source,
                    target=values[0],
                    source=values[1],
                )


def _is_config(value: object) -> bool:
    """Return whether an attribute is an object that holds plain values, and no module, tensor, class or function."""
    if callable(value) or not hasattr(value, "__dict__") or hasattr(value, "_modules"):
        return False
    return any(_is_plain(one) and one is not None for one in vars(value).values())


def _differences(ours: object, theirs: object) -> Iterator[tuple[str, tuple[object, object]]]:
    """Yield the attributes of two objects that hold plain values, and other ones."""
    other = vars(theirs)
    for key, value in vars(ours).items():
        if key.startswith("_") or key not in other or not (_is_plain(value) and _is_plain(other[key])):
            continue
        if value != other[key] and max(len(str(value)), len(str(other[key]))) <= _LONGEST:
            yield key, (_hashable(value), _hashable(other[key]))


def _hashable(value: object) -> object:
    return str(value) if isinstance(value, (Mapping, list, tuple)) else value


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
