"""One slot per storage of a model, with all its names."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torchgraft.core.collector import collector_paused
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError
from torchgraft.core.making import maker
from torchgraft.core.places import walk_of
from torchgraft.core.specs import Setting, Slot, Target, TensorSpec
from torchgraft.surveying.heads import head_counts

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    import torch
    from torch import nn

    from torchgraft.core.places import Place, Walk


_make_slot, _make_spec = maker(Slot), maker(TensorSpec)


def survey(model: nn.Module | Walk) -> Target:
    """Return the slots of `model`: one per storage, with all its names; persistent ones and hidden buffers alike.

    Nothing is read but names, shapes and types, so a model on the meta device is as good as any.

    Raises:
        UsageError: a module has not been given its shapes yet (lazy modules), or holds an element type unknown here.
    """
    with collector_paused():
        seen = walk_of(model)
        walked = seen.modules
        classes = _classes(walked)
        kinds = _kinds(walked, classes)
        groups: dict[Hashable, list[Place]] = {}
        for place in seen.places:
            groups.setdefault(_identity(place.tensor), []).append(place)
        slots = tuple(_slot(group, kinds, order) for order, group in enumerate(groups.values()))
        is_meta = any(group[0].tensor.is_meta for group in groups.values())
    return Target(
        slots, classes, is_meta=is_meta, library=_library(module for _, module in walked), heads=head_counts(walked)
    )


def _library(walked: Iterable[nn.Module]) -> str:
    packages: Counter[str] = Counter()
    for kind, count in Counter(map(type, walked)).items():  # a large model has few classes
        packages[kind.__module__.partition(".")[0]] += count
    packages.pop("torch", None)
    return packages.most_common(1)[0][0] if packages else ""


def target_from_specs(specs: Mapping[str, TensorSpec], shared: Mapping[str, str] | None = None) -> Target:
    """Return a target that is known only by its names, shapes and types: another checkpoint, say.

    `shared` maps a name to the first name with the same memory; such names become aliases. Module kinds stay unknown.
    """
    aliases: dict[str, list[str]] = {}
    for name, first in (shared or {}).items():
        if name != first and specs.get(first) is not None and name in specs:
            aliases.setdefault(first, []).append(name)
    hidden = {name for names in aliases.values() for name in names}
    firsts = [spec for name, spec in specs.items() if name not in hidden]
    slots = tuple(
        Slot(spec=spec, aliases=tuple(aliases.get(spec.name, ())), owner=spec.name.rpartition(".")[0], order=order)
        for order, spec in enumerate(firsts)
    )
    return Target(slots, {})


def _slot(group: list[Place], kinds: Mapping[str, str], order: int) -> Slot:
    """Return the slot of one storage; the first persistent name is the canonical one."""
    first = group[0]
    aliases: tuple[str, ...] = ()
    if len(group) > 1:
        group = sorted(group, key=lambda place: not place.persistent)
        first = group[0]
        aliases = tuple(dict.fromkeys(place.name for place in group[1:]))
    tensor = first.tensor
    return _make_slot(
        spec=_make_spec(first.name, _shape(first), _dtype(first)),
        aliases=aliases,
        owner=first.owner,
        kind=kinds[first.owner],
        is_buffer=first.is_buffer,
        persistent=first.persistent,
        trainable=tensor.requires_grad,
        order=order,
        setting=_setting(first.module),
    )


def _setting(module: nn.Module) -> Setting | None:
    """Return what a convolution or norm is set to; None for all other modules."""
    own = module.__dict__
    if "eps" in own:
        eps = own["eps"]
        return Setting(eps=float(eps) if isinstance(eps, (int, float)) else None)
    if "kernel_size" not in own or "groups" not in own:
        return None
    sides = [own["kernel_size"], own.get("stride"), own.get("dilation"), own.get("padding")]
    if sides[3] == "same":
        return Setting(groups=int(own["groups"]))
    if not all(isinstance(side, tuple) for side in sides):
        return Setting(groups=int(own["groups"]), keeps_size=False)
    fits = all(s == 1 and 2 * p == d * (k - 1) for k, s, d, p in zip(*sides, strict=True))
    return Setting(groups=int(own["groups"]), keeps_size=fits)


def _identity(tensor: torch.Tensor) -> Hashable:
    """Return what two tensors share when they are one storage seen the same way."""
    address = 0 if tensor.is_meta else _address(tensor)
    try:
        if address:  # a conjugate shares its memory, and means other numbers
            return (address, tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
        storage = tensor.untyped_storage()._cdata  # noqa: SLF001  # on meta no memory tells storages apart
        return (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
    except (
        RuntimeError,
        NotImplementedError,
        TypeError,
        ValueError,
    ):  # sparse, nested, lazy, subclasses without a storage of their own
        return id(tensor)


def _address(tensor: torch.Tensor) -> int:
    """Return where the values begin in memory, 0 where the question makes no sense."""
    try:
        return tensor.data_ptr() if tensor.numel() else 0
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return 0


def _shape(place: Place) -> tuple[int, ...]:
    try:
        return tuple(place.tensor.shape)
    except RuntimeError as error:
        if place.tensor.is_nested:
            raise UsageError(
                f"{place.name} of the model is a nested tensor, which has no shape: register its parts instead"
            ) from error
        raise UsageError(
            f"{place.name} of the model has no shape yet ({type(place.module).__name__} is lazy): "
            "run one forward pass with an example batch first, then load"
        ) from error


def _dtype(place: Place) -> DType:
    found = _DTYPES.get(place.tensor.dtype)
    if found is None:
        try:
            found = DType.of(str(place.tensor.dtype))
        except KeyError as error:
            raise UsageError(
                f"{place.name} of the model has element type {place.tensor.dtype}, which torchgraft does not know"
            ) from error
        _DTYPES[place.tensor.dtype] = found
    return found


_DTYPES: dict[object, DType] = {}


def _kinds(walked: list[tuple[str, nn.Module]], classes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the class name of every module; parts of a parametrized module carry the name of that module's class."""
    kinds = dict(classes)
    for path, module in walked:
        # scripted modules hold theirs in something that has no get()
        inner = module._modules["parametrizations"] if "parametrizations" in module._modules else None  # noqa: SLF001, SIM401
        if inner is None:
            continue
        prefix = f"{path}.parametrizations" if path else "parametrizations"
        for name in inner._modules:  # noqa: SLF001
            kinds[f"{prefix}.{name}"] = kinds[path]
    return kinds


def _classes(walked: list[tuple[str, nn.Module]]) -> dict[str, str]:
    """Return the class name of every module."""
    names: dict[type, str] = {}
    found: dict[str, str] = {}
    for path, module in walked:
        kind = type(module)
        name = names.get(kind)
        if name is None:
            name = _class_name(module)
            if not kind.__name__.startswith("Parametrized"):  # there it hangs on the module
                names[kind] = name
        found[path] = name
    return found


def _class_name(module: nn.Module) -> str:
    """Return the class name; for the class that torch's parametrize makes up, that of the class it was made from."""
    kind = type(module)
    wrapped = next((base for base in kind.__bases__ if kind.__name__ == f"FSDP{base.__name__}"), None)
    if wrapped is not None:  # what torch's fully_shard makes of a module's class
        return wrapped.__name__
    if "parametrizations" in module._modules and kind.__name__.startswith("Parametrized"):  # noqa: SLF001
        return kind.__bases__[0].__name__
    return kind.__name__
