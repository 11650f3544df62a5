"""How two checkpoints differ: by names, shapes and types, and on request by values, one pair in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torchgraft.core.facts import ties_of
from torchgraft.core.results.diff import Change, Diff, Distance
from torchgraft.core.specs import Network, Source, TensorSpec
from torchgraft.core.system.progress import Ticks
from torchgraft.core.types import Tensor
from torchgraft.core.values import agreeing, comparable

Measure = Callable[[str], Distance | None]

# Elements compared at one time: a pair of chunks in float64 takes 32 MB.
CHUNK = 1 << 21


def compare(old: tuple[Source, Network], new: tuple[Source, Network]) -> Diff:
    """Return the difference of two networks in names, shapes and types; nothing is read."""
    return _diff(old, new, None)


def compare_with_values(
    old: tuple[Source, Network], new: tuple[Source, Network], progress: Callable[[int, int], None] | None = None
) -> Diff:
    """Return the difference of two networks, values included.

    `progress` hears bytes done and in all, of both sides. One tensor of each side is in memory at a time.

    Raises:
        CheckpointError: a tensor can't be read.
    """
    before, after = old[1].specs, new[1].specs  # by the names to compare under, where the old ones were renamed
    pairs = ((spec, after[name]) for name, spec in before.items() if name in after)
    ticks = Ticks(progress, sum(a.nbytes + b.nbytes for a, b in pairs if a.shape == b.shape))

    def measure(name: str) -> Distance | None:
        found = distance(old[0].read(old[1].path, before[name].name), new[0].read(new[1].path, name))
        ticks.tick(before[name].nbytes + after[name].nbytes)
        return found

    return _diff(old, new, measure)


def distance(a: Tensor, b: Tensor) -> Distance:
    """Return how far two tensors of one shape lie apart; types are compared by value, the distance is in float64.

    Where they lie on different devices, they are compared on the CPU.
    """
    import torch

    if a.device != b.device:
        a, b = a.cpu(), b.cpu()
    if a.dtype == b.dtype and torch.equal(comparable(a), comparable(b)):
        return Distance(0, 0.0)
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    left, right = a.reshape(-1), b.reshape(-1)
    elements, greatest = 0, 0.0
    for start in range(0, left.numel(), CHUNK):
        one, other = left[start : start + CHUNK], right[start : start + CHUNK]
        x, y = one.to(wide), other.to(wide)
        rounded = _rounded_apart(one, other)
        differing = ~agreeing(x, y) | rounded
        count = int(differing.sum())
        if count:
            gap = torch.where(rounded, (x - y).abs().clamp_min(1), (x - y).abs())[differing]
            elements += count
            greatest = max(greatest, float("inf") if bool(gap.isnan().any()) else float(gap.max()))
    return Distance(elements, greatest)


def _rounded_apart(a: Tensor, b: Tensor) -> Tensor:
    """Return where whole numbers of 64 bits differ, which float64 may round to the same from 2^53 on; nowhere for others."""
    import torch

    wide = [t for t in (a, b) if t.dtype in (torch.int64, torch.uint64)]
    if len(wide) == 2:
        signed = a.view(torch.int64), b.view(torch.int64)
        other_sign = a.dtype != b.dtype and ((signed[0] < 0) | (signed[1] < 0))
        return (signed[0] != signed[1]) | other_sign
    if len(wide) == 1 and not (a.is_complex() or b.is_complex()):
        return wide[0].double().to(torch.int64) != wide[0].view(torch.int64)
    return torch.zeros_like(a, dtype=torch.bool)


def _diff(old: tuple[Source, Network], new: tuple[Source, Network], measure: Measure | None) -> Diff:
    before, after = old[1].specs, new[1].specs
    shapes: list[Change] = []
    dtypes: list[Change] = []
    values: list[Change] = []
    same: list[TensorSpec] = []
    for name, spec in before.items():
        other = after.get(name)
        if other is None:
            continue
        if spec.shape != other.shape:
            shapes.append(Change(spec, other))
            continue
        found = measure(name) if measure is not None else None
        if spec.dtype is not other.dtype:
            dtypes.append(Change(spec, other, found))
        elif found is not None and found.elements:
            values.append(Change(spec, other, found))
        else:
            same.append(spec)
    old_names, new_names = _second_names(old[1], after), _second_names(new[1], before)
    return Diff(
        old=old[0].origin,
        new=new[0].origin,
        values=measure is not None,
        added=tuple(spec for name, spec in after.items() if name not in before and name not in new_names),
        removed=tuple(spec for name, spec in before.items() if name not in after and name not in old_names),
        old_names=_unstated(old_names, new[0]),
        new_names=_unstated(new_names, old[0]),
        shape_changed=tuple(shapes),
        dtype_changed=tuple(dtypes),
        value_changed=tuple(values),
        same=tuple(same),
        hint=_hint(before, after),
    )


def _second_names(network: Network, others: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return names that only this side has of tensors that both have, each with the name that both have."""
    shared = network.shared or {}
    firsts = {name: shared.get(spec.name, spec.name) for name, spec in network.specs.items()}
    common = {first: name for name, first in reversed(firsts.items()) if name in others}
    return {name: common[first] for name, first in firsts.items() if name not in others and first in common}


def _unstated(second: Mapping[str, str], other: Source) -> dict[str, str]:
    """Return the second names that the other side doesn't state either, as the metadata of a safetensors file may."""
    stated = ties_of(other.metadata)
    return {name: first for name, first in second.items() if stated.get(name) != first}


def _hint(before: Mapping[str, TensorSpec], after: Mapping[str, TensorSpec]) -> str:
    """Return a remark where most names would agree, were it not for one prefix."""
    common = sum(name in after for name in before)
    if not before or not after or common > len(before) // 2:
        return ""
    for names, others, side in ((before, after, "old"), (after, before, "new")):
        prefixed = next(iter(names)).split(".")
        for at in range(1, len(prefixed)):
            prefix = ".".join(prefixed[:at]) + "."
            cut = sum(name.startswith(prefix) and name[len(prefix) :] in others for name in names)
            if cut > len(names) // 2:
                rename = {prefix: ""} if side == "old" else {"": prefix}
                return (
                    f"without the prefix '{prefix}' of the {side} side, {cut} names would agree: compare with "
                    f"rename={rename}"
                )
    return ""
