"""Both sides with a few members for each long run of like ones; and the plan for those, said of all."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

from torchgraft.core.plan import Plan
from torchgraft.core.specs import Network, Slot, Target
from torchgraft.thinning.extending import Extension
from torchgraft.thinning.places import Place, places_of
from torchgraft.thinning.runs import Runs, sizes_of, tree_of

# Where neither side has more tensors it isn't worth the detour, nor where of one more than every third stays.
MANY = 600
WORTH = 3
# Key under which a module itself is noted among its tensors: no tensor is called so.
_CLASS, _HEADS = "\0class", "\0heads"


@dataclass(frozen=True, slots=True)
class Few:
    """A network and a target of which a few members of each long run are left, and the whole ones."""

    network: Network
    target: Target
    whole: tuple[Network, Target]
    places: tuple[Mapping[str, Place], Mapping[str, Place]]

    def extended(self, plan: Plan) -> Plan:
        """Return the plan of the whole sides that says of each member what `plan` says of those that stay.

        Raises:
            UnevenError: those that stay don't say the same, or something in doubt, or what can't be said of others.
        """
        network, target = self.whole
        extension = Extension(*self.places)
        steps = extension.steps(plan.steps, target.slots)
        unused = extension.unused(plan.unused, network.specs)
        return replace(plan, steps=steps, unused=unused, source_specs=network.specs)


def thinned(network: Network, target: Target) -> Few | None:
    """Return both sides with a few members of each run of like ones; None where that isn't worth the detour."""
    if max(len(network.specs), len(target.slots)) < MANY:
        return None
    facts = _of_file(network), _of_model(target)
    trees = tree_of(facts[0]), tree_of(facts[1])
    if trees[0] is None or trees[1] is None:
        return None
    runs = Runs(trees[0]), Runs(trees[1])
    apart = runs[0].ends() ^ runs[1].ends()
    for own in runs:
        own.part_at(apart)
    sizes = sizes_of(runs[0].lengths() | runs[1].lengths())
    source, model = (places_of(tree, own, sizes) for tree, own in zip(trees, runs, strict=True) if tree is not None)
    few = Few(_few_tensors(network, source), _few_slots(target, model), (network, target), (source, model))
    left = len(few.network.specs), len(few.target.slots)
    return few if WORTH * left[0] <= len(network.specs) and WORTH * left[1] <= len(target.slots) else None


def _of_file(network: Network) -> Mapping[str, Hashable]:
    """Return what is told of each tensor; what is there twice is like no other."""
    facts: dict[str, Hashable] = {name: (spec.shape, spec.dtype) for name, spec in network.specs.items()}
    facts.update((name, object()) for pair in (network.shared or {}).items() for name in pair if name in facts)
    return facts


def _of_model(target: Target) -> Mapping[str, Hashable]:
    """Return what is told of each slot and each module; what has several names is like no other."""
    facts: dict[str, Hashable] = {}
    for slot in target.slots:
        facts[slot.name] = object() if slot.aliases else _said_of(slot)
        facts.update((alias, object()) for alias in slot.aliases)
    facts.update((f"{path}.{_CLASS}", kind) for path, kind in target.classes.items())
    facts.update((f"{path}.{_HEADS}", heads) for path, heads in target.heads.items())
    return facts


def _said_of(slot: Slot) -> Hashable:
    spec = slot.spec
    above = slot.name[len(slot.owner) :] if slot.name.startswith(slot.owner) else slot.owner
    return spec.shape, spec.dtype, above, slot.kind, slot.is_buffer, slot.persistent, slot.is_linear, slot.setting


def _few_tensors(network: Network, places: Mapping[str, Place]) -> Network:
    """Return the network of the tensors that stay."""
    called = {place.name: name for name, place in places.items()}
    kept = [replace(spec, name=called[name]) for name, spec in network.specs.items() if name in called]
    pairs = (network.shared or {}).items()
    shared = {called[name]: called[first] for name, first in pairs if name in called and first in called}
    return replace(network, specs={spec.name: spec for spec in kept}, shared=shared or None)


def _few_slots(target: Target, places: Mapping[str, Place]) -> Target:
    called = {place.name: name for name, place in places.items()}
    slots = tuple([_renamed(slot, called) for slot in target.slots if slot.name in called])
    classes = {called.get(path, path): kind for path, kind in target.classes.items() if path in called or not path}
    heads = {called.get(path, path): count for path, count in target.heads.items() if path in called or not path}
    return replace(target, slots=slots, classes=classes, heads=heads)


def _renamed(slot: Slot, called: Mapping[str, str]) -> Slot:
    return replace(
        slot,
        spec=replace(slot.spec, name=called[slot.name]),
        owner=called.get(slot.owner, slot.owner),
        aliases=tuple(called[alias] for alias in slot.aliases),
    )
