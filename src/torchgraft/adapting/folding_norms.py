"""Batch norms of the file folded into the layers before them, on request, for a model that has no norms there.

In evaluation a norm behind a layer is a factor and a shift per output channel, so layer and norm are one layer with a
bias (torch.nn.utils.fusion). The file is seen as if it held that one layer under the old layer's name; once it is known
where that goes, the step is rewritten to read layer and norm, and to fold them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.grounds import Ground
from torchgraft.core.plan import Certainty, Feed, Op, Step, Unused, Why
from torchgraft.core.registration import as_registered
from torchgraft.core.specs import Target, TensorSpec
from torchgraft.ops import FuseNormBias, FuseNormWeight

EPS = 1e-5
_NUMBER = re.compile(r"\d*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A layer and the norm behind it, by owner; and which of their tensors the file has."""

    layer: str
    norm: str
    keys: frozenset[str]
    by_name: bool

    def present(self, *keys: str) -> list[str]:
        """Return those of `keys` that the file has."""
        return [key for key in keys if key in self.keys]

    @property
    def weight_keys(self) -> list[str]:
        """What the folded weight is computed from."""
        return [f"{self.layer}.weight", *self.present(f"{self.norm}.weight"), f"{self.norm}.running_var"]

    @property
    def bias_keys(self) -> list[str]:
        """What the folded bias is computed from."""
        affine = self.present(f"{self.layer}.bias", f"{self.norm}.weight", f"{self.norm}.bias")
        return [*affine, f"{self.norm}.running_mean", f"{self.norm}.running_var"]


@dataclass(frozen=True, slots=True)
class Folding:
    """The file as if its norms were folded, `shown`, and what stands behind which key. `eps` None is the usual one."""

    specs: Mapping[str, TensorSpec]
    shown: Mapping[str, TensorSpec]
    target: Target
    folds: Mapping[str, Fold]
    eps: float | None

    def original_steps(self, steps: Mapping[str, Step]) -> dict[str, Step]:
        """Return the steps with layers and norms of the file in place of the folded layers.

        Raises:
            UsageError: a folded layer goes to one without a bias, or through an op that joins several tensors.
        """
        placed: dict[str, list[Step]] = {}
        for step in steps.values():
            for feed in step.feeds:
                placed.setdefault(feed.key, []).append(step)
        for fold in dict.fromkeys(self.folds.values()):
            weights, biases = ({s.slot.owner for s in placed.get(f"{fold.layer}.{r}", ())} for r in ("weight", "bias"))
            if weights - biases:
                raise UsageError(
                    f"norm {printable(fold.norm)} of the file can't be folded into {printable(min(weights - biases))}: "
                    "that has no bias to take its shift; give the model's layer a bias, or keep the norm in the model"
                )
        return {name: _unfolded(step, self) for name, step in steps.items()}

    def original_unused(self, unused: Sequence[Unused], steps: Iterable[Step], network: str) -> tuple[Unused, ...]:
        """Return the fates of the file's own tensors: those of a folded norm follow its layer, its counter is quiet."""
        used = {feed.key for step in steps for feed in step.feeds}
        fates = {u.spec.name: u for u in unused}
        out = [u for u in unused if u.spec.name in self.specs]
        for fold in dict.fromkeys(self.folds.values()):
            layer = fates.get(f"{fold.layer}.weight")
            for key in sorted(fold.keys):
                if key.startswith(f"{fold.norm}.") and key not in used:
                    why = Why(Ground.FOLDED_NORM, "the norm is folded, and nothing counts its batches")
                    is_lost = layer is not None and not key.endswith(".num_batches_tracked")
                    why = layer.why if layer is not None and is_lost else why
                    out.append(Unused(spec=self.specs[key], network=network, why=why, quiet=not is_lost))
        order = {key: at for at, key in enumerate(self.specs)}
        return tuple(sorted(out, key=lambda u: order[u.spec.name]))


def fold_norms(specs: Mapping[str, TensorSpec], target: Target, eps: float | None) -> Folding:
    """Return the file with each norm folded that the model doesn't have.

    Raises:
        UsageError: there is none behind a layer of as many channels.
    """
    kept = [name for slot in target.slots for name in slot.names if name.endswith(".running_var")]
    found = [fold for fold in _pairs(specs) if not _has(kept, f"{fold.norm}.running_var")]
    if not found:
        raise UsageError(
            "fold_norms was asked for, but the checkpoint has no batch norm behind a layer that the model lacks"
        )
    gone = {f"{fold.norm}.{role}" for fold in found for role in ("weight", "bias", "running_mean", "running_var")}
    gone |= {f"{fold.norm}.num_batches_tracked" for fold in found}
    folds = {f"{fold.layer}.{role}": fold for fold in found for role in ("weight", "bias")}
    shown: dict[str, TensorSpec] = {}
    for key, spec in specs.items():
        if key in gone:
            continue
        shown[key] = spec
        fold = folds.get(key)
        bias = f"{fold.layer}.bias" if fold else ""
        if fold and key.endswith(".weight") and bias not in specs:
            shown[bias] = TensorSpec(bias, specs[f"{fold.norm}.running_mean"].shape, spec.dtype)
    return Folding(specs, shown, target, folds, eps)


def _has(names: Iterable[str], key: str) -> bool:
    return any(name == key or name.endswith("." + key) or key.endswith("." + name) for name in names)


def _pairs(specs: Mapping[str, TensorSpec]) -> list[Fold]:
    """Return every norm with statistics and the layer before it: by order, or by name.

    Names tell in a file that has lost the order, and where a model registers its layers first and then its norms: bn1 is conv1's
    also behind conv2.
    """
    owners: dict[str, set[str]] = {}
    for key in specs:
        owner, dot, role = key.rpartition(".")
        if dot:  # what is the model itself stands behind nothing
            owners.setdefault(owner, set()).add(role)
    norms = {o for o, roles in owners.items() if {"running_mean", "running_var"} <= roles}
    layers = {o for o, r in owners.items() if o not in norms and "weight" in r and len(specs[f"{o}.weight"].shape) > 1}
    is_ordered = as_registered((key, spec.dtype) for key, spec in specs.items())
    order = {owner: at for at, owner in enumerate(owners)}
    before = dict(zip(list(owners)[1:], owners, strict=False))
    out = []
    for norm in (owner for owner in owners if owner in norms):
        layer, twin = before.get(norm), _twin(norm, layers)
        by_name = not is_ordered or (twin is not None and twin != layer and order[twin] < order[norm])
        if by_name:
            layer = twin
        if layer is not None and layer in layers and _adjoin(layer, norm, specs):
            keys = frozenset(f"{o}.{role}" for o in (layer, norm) for role in owners[o])
            out.append(Fold(layer=layer, norm=norm, keys=keys, by_name=by_name))
    return out


def _adjoin(layer: str, norm: str, specs: Mapping[str, TensorSpec]) -> bool:
    """Whether a norm can stand right behind a layer: as many channels, and nothing between them in a sequence."""
    above, _, place = layer.rpartition(".")
    parent, _, number = norm.rpartition(".")
    if above == parent and place.isdecimal() and number.isdecimal() and int(number) != int(place) + 1:
        return False
    shape, channels = specs[f"{layer}.weight"].shape, specs[f"{norm}.running_var"].shape
    return shape[:1] == channels or (len(shape) > 2 and shape[1:2] == channels)


def _twin(norm: str, layers: Iterable[str]) -> str | None:
    """Return the layer that stands before a norm by their names: conv2 before bn2, 0 before 1; None if in question."""
    parent, _, last = norm.rpartition(".")
    beside = {layer.rpartition(".")[2]: layer for layer in layers if layer.rpartition(".")[0] == parent}
    if last.isdecimal():
        return beside.get(str(int(last) - 1))
    number = _NUMBER.findall(last)[0]
    alike = [layer for name, layer in beside.items() if not name.isdecimal() and _NUMBER.findall(name)[0] == number]
    return alike[0] if len(alike) == 1 else None


def _unfolded(step: Step, folding: Folding) -> Step:
    folds = [folding.folds[feed.key] for feed in step.feeds if feed.key in folding.folds]
    if not folds:
        return step
    if len(step.feeds) != 1:
        raise UsageError(f"norms of the parts that {printable(step.slot.name)} joins can't be folded")
    feed, fold = step.feeds[0], folds[0]
    eps = EPS if folding.eps is None else folding.eps
    is_weight = feed.key.endswith(".weight")
    dim = 1 if "Transpose" in step.slot.kind else 0
    op: Op = FuseNormWeight(eps, dim) if is_weight else FuseNormBias(eps)
    keys = fold.weight_keys if is_weight else fold.bias_keys
    op.out_spec([folding.specs[key] for key in keys])
    said = f"norm {fold.norm} folded, eps {eps:g}" + (" assumed" if folding.eps is None else "")
    sure = folding.eps is not None and not fold.by_name
    return replace(
        step,
        feeds=tuple(Feed(key, (), feed.network) for key in keys),
        ops=(op, *feed.ops, *step.ops),
        why=Why(Ground.FOLDED_NORM, f"{step.why.text}; {said}", step.why.evidence),
        certainty=step.certainty if sure or step.certainty is Certainty.DOUBT else Certainty.LIKELY,
    )
