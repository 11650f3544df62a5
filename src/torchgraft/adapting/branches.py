"""Parallel training branches (RepVGG, Ding et al. 2021) fused into the one convolution that the model has, on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.grounds import Ground
from torchgraft.core.names import above, ends, wrappers
from torchgraft.core.plan import Certainty, Doubt, Feed, Step, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.ops import FuseBranches

NORM = ("weight", "bias", "running_mean", "running_var")
EPS = 1e-5
MOST_WAYS = 8
BRANCHES = Doubt(
    "fuse_branches",
    "the file has parallel branches here, as in training, where the model has one layer: fuse_branches= adds them up",
)


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch: its kind in FuseBranches' words, and its keys in order."""

    kind: str
    keys: tuple[str, ...]


def branch_steps(specs: Mapping[str, TensorSpec], slots: Sequence[Slot], network: str) -> dict[str, Step]:
    """Return steps for each convolution of the model that the file holds as two or more branches of one block.

    A block is the module above the convolution. Its branches are the file's convolutions and norms below that same
    module; a norm belongs to the convolution beside it, a norm alone is the identity branch. Either side may have
    everything under one more path.
    """
    found = _fused(specs, slots, network)
    for new, old in () if found else _ways(specs, slots):
        keys = {new + key[len(old) :]: key for key in specs if key.startswith(old)}
        steps = _fused({name: specs[key] for name, key in keys.items()}, slots, network)
        if len(steps) > len(found):
            found = {name: _with_keys(step, keys) for name, step in steps.items()}
    return found


def _ways(specs: Mapping[str, TensorSpec], slots: Sequence[Slot]) -> Iterator[tuple[str, str]]:
    """Yield the paths (in the model, in the file) under which the two may have the same names."""
    heads: dict[str, list[str]] = {}
    for path in dict.fromkeys(path for key in specs for path in above(key)):
        for end in ends(path):
            heads.setdefault(end, []).append(path[: len(path) - len(end)])
    for wrapper in ("", *wrappers(slot.name for slot in slots)):
        blocks = (_block(slot).removeprefix(wrapper) for slot in slots if slot.role == "weight" and slot.spec.shape[2:])
        known = next((heads[block] for block in blocks if block in heads), [])
        yield from ((wrapper, head) for head in known[:MOST_WAYS])


def _with_keys(step: Step, keys: Mapping[str, str]) -> Step:
    return replace(step, feeds=tuple(replace(feed, key=keys[feed.key]) for feed in step.feeds))


def _block(slot: Slot) -> str:
    return slot.name.rpartition(".")[0].rpartition(".")[0]


def _fused(specs: Mapping[str, TensorSpec], slots: Sequence[Slot], network: str) -> dict[str, Step]:
    """Return the steps where a block has one name on both sides."""
    by_name = {slot.name: slot for slot in slots}
    steps: dict[str, Step] = {}
    for slot in slots:
        block = _block(slot)
        kernel = slot.spec.shape[2:]
        if slot.role != "weight" or not kernel or slot.name in specs or not block:
            continue
        if any(size % 2 == 0 for size in kernel):  # without a middle, for a smaller kernel to be laid on
            continue
        branches = [b for b in _branches(f"{block}.", specs) if _is_of_one_layer(b, slot.spec.shape, specs)]
        convs = [b for b in branches if b.kind.startswith("conv")]
        if len(branches) < 2 or not any(specs[b.keys[0]].shape == slot.spec.shape for b in convs):
            continue
        kinds = tuple(b.kind for b in branches)
        groups = _groups(slot.spec.shape, specs, branches)
        for part, name in (("weight", slot.name), ("bias", slot.name.removesuffix("weight") + "bias")):
            if name in by_name:
                op = FuseBranches(kernel=kernel, branches=kinds, part=part, eps=EPS, groups=groups)
                keys = [key for b in branches for key in b.keys]
                feeds = tuple(Feed(key, (), network) for key in keys)
                text = f"{len(branches)} branches of {block} fused, norm eps {EPS:g} assumed"
                steps[name] = Step(slot=by_name[name], feeds=feeds, ops=(op,), why=Why(Ground.FUSED_BRANCHES, text))
    return steps


def with_branch_hint(steps: tuple[Step, ...], specs: Mapping[str, TensorSpec], network: str) -> tuple[Step, ...]:
    """Return the steps, those in doubt that parallel branches of the file could fill with that as their doubt.

    What has a place of its own in the model is no branch of another layer.
    """
    doubtful = [step.slot for step in steps if step.certainty is Certainty.DOUBT and step.feeds]
    found = branch_steps(specs, doubtful, network) if doubtful else {}
    home = {feed.key: step.slot.owner for step in steps for feed in step.feeds} if found else {}
    fused = {
        name
        for name, step in found.items()
        if all(home.get(feed.key, step.slot.owner) == step.slot.owner for feed in step.feeds)
    }
    if not fused:
        return steps
    return tuple(
        replace(s, why=s.why.in_doubt(BRANCHES), alternatives=()) if s.slot.name in fused else s for s in steps
    )


def _groups(kernel: tuple[int, ...], specs: Mapping[str, TensorSpec], branches: Sequence[Branch]) -> int:
    identity = [b for b in branches if b.kind == "norm"]
    return max(1, specs[identity[0].keys[0]].shape[0] // kernel[1]) if identity else 1


def _is_of_one_layer(branch: Branch, kernel: tuple[int, ...], specs: Mapping[str, TensorSpec]) -> bool:
    """Return whether a branch leads from the channels of a convolution to its channels, as all that are added up do."""
    own = specs[branch.keys[0]].shape
    return own[:1] == kernel[:1] if branch.kind == "norm" else own[:2] == kernel[:2]


def _branches(prefix: str, specs: Mapping[str, TensorSpec]) -> list[Branch]:
    owners: dict[str, set[str]] = {}
    for key in specs:
        if key.startswith(prefix):
            owner, _, role = key.rpartition(".")
            owners.setdefault(owner, set()).add(role)
    norms = [owner for owner, roles in owners.items() if set(NORM) <= roles]
    convs = [
        o for o, roles in owners.items() if o not in norms and "weight" in roles and len(specs[f"{o}.weight"].shape) > 2
    ]
    found, used = [], set()
    for conv in convs:
        norm = next((n for n in norms if n.rpartition(".")[0] == conv.rpartition(".")[0] and n not in used), None)
        bias = (f"{conv}.bias",) if "bias" in owners[conv] else ()
        tail = tuple(f"{norm}.{role}" for role in NORM) if norm else ()
        kind = "conv" + ("+bias" if bias else "") + ("+norm" if norm else "")
        found.append(Branch(kind, (f"{conv}.weight", *bias, *tail)))
        used.add(norm)
    found += [Branch("norm", tuple(f"{n}.{role}" for role in NORM)) for n in norms if n not in used]
    return found
