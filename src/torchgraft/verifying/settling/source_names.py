"""Which tensor of a file is which of the source's model, by their values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torchgraft.core.errors import UsageError
from torchgraft.core.places import places
from torchgraft.core.plan import Plan
from torchgraft.core.results.recording import Fingerprint
from torchgraft.core.specs import Source
from torchgraft.core.types import Module
from torchgraft.verifying.settling.trial import CachedSource


def names_in_file(source_model: Module, plan: Plan, source: Source) -> dict[str, str]:
    """Return name of the source's model -> key of the checkpoint with the very same values.

    `plan` is one that fills the model from the checkpoint; where its reading has other values, all keys of that shape
    are looked at. Tensors that the checkpoint doesn't hold are left out.

    Raises:
        UsageError: less than half of the model's tensors hold what the checkpoint does.
    """
    held = {place.name: place.tensor for place in places(source_model)}
    cached = CachedSource(source)
    found: dict[str, str] = {}
    missing = []
    for step in plan.steps:
        if not step.slot.persistent:
            continue
        own, shape = held[step.slot.name], step.slot.spec.shape
        keys = [feed.key for feed in step.feeds[:1]]
        keys += [key for key, spec in plan.source_specs.items() if spec.shape == shape and key not in keys]
        key = next((k for k in keys if not own.is_meta and cached.holds(plan.network, k, own)), None)
        if key is None:
            missing.append(step.slot.name)
        else:
            found.update(dict.fromkeys(step.slot.names, key))
    _require_most_found(
        found,
        missing,
        "source_model holds other values than the checkpoint",
        "fill it first, tg.load(source_model, checkpoint), so that its run shows what the weights do",
    )
    return found


def names_from_fingerprints(fingerprints: Mapping[str, Fingerprint], plan: Plan, source: Source) -> dict[str, str]:
    """Return name of a recorded model -> key of the checkpoint whose tensor has the same fingerprint.

    Of several the one that is called alike is taken: their values are the same.

    Raises:
        UsageError: less than half of the model's tensors are in the checkpoint.
    """
    cached = CachedSource(source)
    keys_by_size: defaultdict[int, list[str]] = defaultdict(list)
    for key, spec in plan.source_specs.items():
        keys_by_size[spec.numel].append(key)
    found: dict[str, str] = {}
    missing: list[str] = []
    for name, wanted in fingerprints.items():
        keys = sorted(keys_by_size.get(wanted.numel, ()), key=lambda key: not f".{key}".endswith(f".{name}"))
        match = next((k for k in keys if cached.has_fingerprint(plan.network, k, wanted)), None)
        if match is None:
            missing.append(name)
        else:
            found[name] = match
    _require_most_found(
        found,
        missing,
        "golden= was recorded with other values than the checkpoint has",
        "record a model that holds the checkpoint",
    )
    return found


def _require_most_found(found: Mapping[str, str], missing: Sequence[str], fact: str, remedy: str) -> None:
    if len(missing) > len(found):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"{fact}, in {missing[0]}{more}: {remedy}")
