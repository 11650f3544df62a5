"""One slot per storage of a model, with all its names; and how many heads and patches its modules say they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError
from torchgraft.core.layout import NO_MEMORY, identity_of
from torchgraft.core.objects import entry_or_attribute
from torchgraft.core.places import Place, Walk, walk_of
from torchgraft.core.specs import Setting, Slot, Target, TensorSpec
from torchgraft.core.system.fast_objects import collector_paused, maker
from torchgraft.core.types import Module, Tensor

_make_slot, _make_spec = maker(Slot), maker(TensorSpec)


def survey(model: Module | Walk) -> Target:
    """Return the slots of `model`: one per storage, with all its names; persistent ones and hidden buffers alike.

    Nothing is read but names, shapes and types, so a model on the meta device is as good as any.

    Raises:
        UsageError: a module has not been given its shapes yet (lazy modules), or holds an element type unknown here.
    """
    with collector_paused():
        seen = walk_of(model)
        parametrized = _parametrized(seen)
        classes = _classes(seen, parametrized)
        kinds = _kinds(classes, parametrized)
        slots, is_meta = _slots(_grouped(seen.places), kinds)
    return Target(
        slots,
        classes,
        is_meta=is_meta,
        library=_library(seen.kinds),
        heads=head_counts(seen.modules),
        grids=patch_grids(seen.modules),
    )


def _library(kinds: Iterable[type[Module]]) -> str:
    packages: Counter[str] = Counter()
    for kind, count in Counter(kinds).items():  # a large model has few classes
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


def _grouped(places: Sequence[Place]) -> Iterable[Sequence[Place]]:
    """Return the places of each storage together, in the order of their first."""
    addresses = [_address(place.tensor) for place in places]
    counts = Counter(addresses)
    if len(counts) == len(places) and 0 not in counts:
        return zip(places, strict=True)
    groups: dict[Hashable, list[Place]] = {}
    for place, address in zip(places, addresses, strict=True):
        alone = address and counts[address] == 1
        groups.setdefault(address if alone else _identity(place.tensor), []).append(place)
    return groups.values()


def _slots(groups: Iterable[Sequence[Place]], kinds: Mapping[str, str]) -> tuple[tuple[Slot, ...], bool]:
    """Return the slot of each storage, and whether any has no memory; the first persistent name is the canonical one.

    What a module says is asked once for all of its tensors, which follow each other.
    """
    slots: list[Slot] = []
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # few, and so each kept once
    is_meta = False
    module, setting, linear = None, None, False
    for group in groups:
        first = group[0]
        aliases: tuple[str, ...] = ()
        if len(group) > 1:
            first, *others = sorted(group, key=lambda place: not place.persistent)
            aliases = tuple(dict.fromkeys([place.name for place in others]))
        name, owner, home, _, tensor, is_buffer, persistent = first
        if home is not module:
            module, setting, linear = home, _setting(home), _is_linear(home)
        shape = _shape(first)
        is_meta = is_meta or tensor.is_meta
        slots.append(
            _make_slot(
                spec=_make_spec(name, shapes.setdefault(shape, shape), _DTYPES.get(tensor.dtype) or _dtype(first)),
                aliases=aliases,
                owner=owner,
                kind=kinds[owner],
                is_buffer=is_buffer,
                persistent=persistent,
                order=len(slots),
                setting=setting,
                is_linear=linear,
            )
        )
    return tuple(slots), is_meta


def _setting(module: Module) -> Setting | None:
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


def _is_linear(module: Module) -> bool:
    """Return whether a module is of torch's Linear or of a subclass that doesn't say that it keeps its matrix turned."""
    own = module.__dict__
    if "in_features" not in own or own.get("fan_in_fan_out"):
        return False
    return any(
        base.__module__ == "torch.nn.modules.linear" and base.__name__ == "Linear" for base in type(module).__mro__
    )


def _identity(tensor: Tensor) -> Hashable:
    """Return a key that is equal for tensors that are one storage seen the same way; on meta memory doesn't tell."""
    if (found := identity_of(tensor)) is not None:
        return found
    try:
        storage = tensor.untyped_storage()._cdata  # noqa: SLF001  # nothing public tells storages apart
        return (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
    except NO_MEMORY:  # lazy, too
        return id(tensor)


def _address(tensor: Tensor) -> int:
    """Return where the values begin in memory, 0 where there are none or the question makes no sense."""
    try:
        return tensor.data_ptr()
    except NO_MEMORY:
        return 0


def _shape(place: Place) -> tuple[int, ...]:
    if place.tensor.is_nested:
        raise UsageError(
            f"{place.name} of the model is a nested tensor, which has no shape: register its parts instead"
        )
    try:
        return tuple(place.tensor.shape)
    except RuntimeError as error:
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


def _parametrized(walk: Walk) -> dict[str, Module]:
    """Return by the path of each module that torch's parametrize changed what computes its tensors."""
    found = {path: module._modules["parametrizations"] for path, module in walk.parametrized}  # noqa: SLF001
    return {path: module for path, module in found.items() if module is not None}


def _classes(walk: Walk, parametrized: Iterable[str]) -> dict[str, str]:
    """Return the class name of every module; for a class that parametrize makes up, that of the class it was made from."""
    names = {kind: _class_name(kind) for kind in set(walk.kinds)}  # a large model has few classes
    found = {path: names[kind] for (path, _), kind in zip(walk.modules, walk.kinds, strict=True)}
    if parametrized:
        made = {path: kind for (path, _), kind in zip(walk.modules, walk.kinds, strict=True)}
        changed = {path: made[path] for path in parametrized if made[path].__name__.startswith("Parametrized")}
        found |= {path: kind.__bases__[0].__name__ for path, kind in changed.items()}
    return found


def _kinds(classes: dict[str, str], parametrized: Mapping[str, Module]) -> dict[str, str]:
    """Return the class name of every module; parts of a parametrized module carry the name of that module's class."""
    kinds = dict(classes) if parametrized else classes
    for path, inner in parametrized.items():
        prefix = f"{path}.parametrizations" if path else "parametrizations"
        kinds |= {f"{prefix}.{name}": kinds[path] for name in inner._modules}  # noqa: SLF001
    return kinds


def _class_name(kind: type[Module]) -> str:
    """Return the name of a class; for what torch's fully_shard makes of one, the name of that."""
    wrapped = next((base for base in kind.__bases__ if kind.__name__ == f"FSDP{base.__name__}"), kind)
    return wrapped.__name__


# What modules and configurations call the number of query heads: torch.nn.MultiheadAttention, timm, torchvision,
# transformers, fairseq, nanoGPT, litgpt, x-transformers and vit-pytorch, as their public code names it.
NAMES = (
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "nhead",
    "nheads",
    "heads",
    "num_query_heads",
    "n_local_heads",
)


def head_counts(walked: Iterable[tuple[str, Module]]) -> dict[str, int]:
    """Return path -> number of heads for the modules that say it."""
    found: dict[str, int] = {}
    configs: dict[int, int | None] = {}
    for path, module in walked:
        own = module.__dict__
        count = None if own.keys().isdisjoint(NAMES) else _count(own)
        config = own.get("config")
        if count is None and config is not None:
            if id(config) not in configs:
                configs[id(config)] = _count(config)
            count = configs[id(config)]
        if count is not None:
            found[path] = count
    return found


def _count(given: object) -> int | None:
    """Return the number that a module's own entries, or a configuration's (properties and aliases, too), tell."""
    for name in NAMES:
        count = entry_or_attribute(given, name)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return count
    return None


def patch_grids(walked: Iterable[tuple[str, Module]]) -> frozenset[tuple[int, int]]:
    """Return every (height, width) in patches that a module says it cuts images into.

    Sizes are called as in the public code of timm and open_clip (`grid_size`), timm and DeiT, MAE and DINO (`img_size`), and of
    transformers and torchvision (`image_size`).
    """
    found = set()
    for _, module in walked:
        own = module.__dict__
        if "grid_size" not in own and "patch_size" not in own:
            continue
        grid = _pair(own.get("grid_size"))
        if grid is None:
            image, patch = _pair(own.get("image_size") or own.get("img_size")), _pair(own.get("patch_size"))
            grid = (image[0] // patch[0], image[1] // patch[1]) if image and patch else None
        if grid is not None and min(grid) > 0:
            found.add(grid)
    return frozenset(found)


def _pair(given: object) -> tuple[int, int] | None:
    """Return (height, width) from a pair, or from one number for both; None for anything else."""
    sizes = (given, given) if isinstance(given, int) else given
    if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
        return None
    height, width = sizes
    is_count = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
    return (int(height), int(width)) if is_count else None
