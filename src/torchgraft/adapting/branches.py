"""Parallel training branches (RepVGG, Ding et al. 2021) fused into the one convolution that the model has, on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.adapting.norm_pairs import EPS, NORM, norm_pairs, roles_by_module
from torchgraft.core.grounds import Ground
from torchgraft.core.names import above, ends, wrappers
from torchgraft.core.plan import Certainty, Doubt, Feed, Step, Why, least_certain
from torchgraft.core.specs import Shape, Slot, TensorSpec
from torchgraft.ops import FuseBranches

MOST_WAYS = 8
BRANCHES = Doubt(
    "fuse_branches",
    "the file has parallel branches here, as in training, where the model has one layer: fuse_branches=True adds them up",
)
UNSURE_NORMS = Doubt("norms_of_branches", "nothing tells which of the norms here stands behind which branch")


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch: its kind in FuseBranches' words, and its keys in order."""

    kind: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """The branches of a block, and how sure it is which norm belongs to which."""

    path: str
    branches: tuple[Branch, ...]
    certainty: Certainty


def branch_steps(
    specs: Mapping[str, TensorSpec], slots: Sequence[Slot], network: str, eps: float | None = None
) -> dict[str, Step]:
    """Return steps for each convolution of the model that the file holds as two or more branches of one block.

    A block is the module above the convolution. Its branches are the file's convolutions and norms below that same
    module; a norm belongs to the convolution that it stands behind, a norm alone is the identity branch. Either side may
    have everything under one more path. `eps` None is the usual one of norms.
    """
    found = _fused(specs, slots, network, eps)
    for new, old in () if found else _ways(specs, slots):
        keys = {new + key[len(old) :]: key for key in specs if key.startswith(old)}
        steps = _fused({name: specs[key] for name, key in keys.items()}, slots, network, eps)
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
        blocks = (
            _path_of(slot).removeprefix(wrapper) for slot in slots if slot.role == "weight" and slot.spec.shape[2:]
        )
        known = next((heads[block] for block in blocks if block in heads), [])
        yield from ((wrapper, head) for head in known[:MOST_WAYS])


def _with_keys(step: Step, keys: Mapping[str, str]) -> Step:
    return replace(step, feeds=tuple(replace(feed, key=keys[feed.key]) for feed in step.feeds))


def _path_of(slot: Slot) -> str:
    """Return the path of the block that a slot's layer lies in."""
    return slot.name.rpartition(".")[0].rpartition(".")[0]


def _fused(specs: Mapping[str, TensorSpec], slots: Sequence[Slot], network: str, eps: float | None) -> dict[str, Step]:
    """Return the steps where a block has one name on both sides."""
    by_name = {slot.name: slot for slot in slots}
    blocks = _Blocks(specs)
    steps: dict[str, Step] = {}
    for slot in slots:
        kernel = slot.spec.shape
        if slot.role != "weight" or len(kernel) < 3 or slot.name in specs or not _path_of(slot):
            continue
        if any(size % 2 == 0 for size in kernel[2:]):  # without a middle, for a smaller kernel to be laid on
            continue
        block = blocks.at(_path_of(slot), kernel)
        if len(block.branches) < 2 or not any(specs[b.keys[0]].shape == kernel for b in block.branches):
            continue
        kinds, groups = tuple(branch.kind for branch in block.branches), _groups(block, kernel, specs)
        for part, name in (("weight", slot.name), ("bias", slot.name.removesuffix("weight") + "bias")):
            if name in by_name:
                used = EPS if eps is None else eps
                op = FuseBranches(kernel=kernel[2:], branches=kinds, part=part, eps=used, groups=groups)
                steps[name] = _step(by_name[name], block, op, network, assumed=eps is None)
    return steps


def _step(slot: Slot, block: Block, op: FuseBranches, network: str, *, assumed: bool) -> Step:
    """Return what adds up the branches of a block; `assumed`: nobody has said the eps of their norms."""
    said = f"norm eps {op.eps:g}{' assumed' if assumed else ''}"
    why = Why(Ground.FUSED_BRANCHES, f"{len(block.branches)} branches of {block.path} fused, {said}")
    return Step(
        slot=slot,
        feeds=tuple(Feed(key, (), network) for branch in block.branches for key in branch.keys),
        ops=(op,),
        why=why.in_doubt(UNSURE_NORMS) if block.certainty is Certainty.DOUBT else why,
        certainty=least_certain([block.certainty, Certainty.LIKELY if assumed else Certainty.CERTAIN]),
    )


def with_branch_hint(steps: tuple[Step, ...], specs: Mapping[str, TensorSpec], network: str) -> tuple[Step, ...]:
    """Return the steps, those in doubt that parallel branches of the file could fill with that as their doubt.

    What has a place of its own in the model is no branch of another layer.
    """
    doubtful = [
        step.slot
        for step in steps
        if step.certainty is Certainty.DOUBT and step.feeds and step.why.rule != Ground.FUSED_BRANCHES
    ]
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


def _groups(block: Block, kernel: Shape, specs: Mapping[str, TensorSpec]) -> int:
    identity = [branch for branch in block.branches if branch.kind == "norm"]
    return max(1, specs[identity[0].keys[0]].shape[0] // kernel[1]) if identity else 1


class _Blocks:
    """The convolutions and the norms with statistics below each module of a file."""

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self._specs = specs
        self._owners = roles_by_module(specs)
        self._behind = {pair.layer: pair for pair in norm_pairs(specs).pairs}
        self._below: dict[str, list[str]] = {}
        for owner in self._owners:
            for path in above(owner):
                self._below.setdefault(path, []).append(owner)

    def at(self, path: str, kernel: Shape) -> Block:
        """Return the branches at a path that lead from the channels of a kernel to its channels, as all that are added up do.

        In doubt where a norm alone may belong to a convolution, too.
        """
        below = self._below.get(path, ())
        norms = [owner for owner in below if set(NORM) <= set(self._owners[owner])]
        convs = [owner for owner in below if owner not in norms and self._is_conv(owner)]
        pairs = {conv: pair for conv in convs if (pair := self._behind.get(conv)) and pair.norm in norms}
        taken = {pair.norm for pair in pairs.values()}
        alone = [norm for norm in norms if norm not in taken]
        found = [self._branch(conv, pairs[conv].norm if conv in pairs else None) for conv in convs]
        found += [Branch("norm", self._of_norm(norm)) for norm in alone]
        sure = Certainty.LIKELY if any(pair.by_name for pair in pairs.values()) else Certainty.CERTAIN
        if alone and (len(alone) > 1 or len(pairs) < len(convs)):
            sure = Certainty.DOUBT
        return Block(path, tuple(one for one in found if self._is_of(one, kernel)), sure)

    def _is_conv(self, owner: str) -> bool:
        return "weight" in self._owners[owner] and len(self._specs[f"{owner}.weight"].shape) > 2

    def _branch(self, conv: str, norm: str | None) -> Branch:
        bias = (f"{conv}.bias",) if "bias" in self._owners[conv] else ()
        kind = "conv" + ("+bias" if bias else "") + ("+norm" if norm else "")
        return Branch(kind, (f"{conv}.weight", *bias, *(self._of_norm(norm) if norm else ())))

    def _of_norm(self, norm: str) -> tuple[str, ...]:
        return tuple(f"{norm}.{role}" for role in NORM)

    def _is_of(self, branch: Branch, kernel: Shape) -> bool:
        own = self._specs[branch.keys[0]].shape
        return own[:1] == kernel[:1] if branch.kind == "norm" else own[:2] == kernel[:2]
