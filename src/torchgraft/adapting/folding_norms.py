"""Batch norms of the file folded into the layers before them, on request, for a model that has no norms there.

In evaluation a norm behind a layer is a factor and a shift per output channel, so layer and norm are one layer with a
bias (torch.nn.utils.fusion). The file is seen as if it held that one layer under the old layer's name; once it is known
where that goes, the step is rewritten to read layer and norm, and to fold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.adapting.norm_pairs import EPS, NormPair, norm_pairs, roles_by_module
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.grounds import Ground
from torchgraft.core.plan import Certainty, Doubt, Feed, Op, Step, Unused, Why, least_certain
from torchgraft.core.specs import Target, TensorSpec
from torchgraft.ops import FuseNormBias, FuseNormWeight


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A layer and the norm behind it, and which of their tensors the file has."""

    pair: NormPair
    keys: frozenset[str]

    @property
    def layer(self) -> str:
        """The layer's path."""
        return self.pair.layer

    @property
    def norm(self) -> str:
        """The norm's path."""
        return self.pair.norm

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
    """The file as if its norms were folded, `shown`, and what stands behind which key. `eps` None is the usual one.

    `open` are layers without a norm, each with one that the model lacks and that may stand behind it.
    """

    specs: Mapping[str, TensorSpec]
    shown: Mapping[str, TensorSpec]
    target: Target
    folds: Mapping[str, Fold]
    eps: float | None
    open: Mapping[str, str]

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
    owners, told = roles_by_module(specs), norm_pairs(specs)
    found = [
        Fold(
            pair=pair, keys=frozenset(f"{owner}.{role}" for owner in (pair.layer, pair.norm) for role in owners[owner])
        )
        for pair in told.pairs
        if not _has(kept, f"{pair.norm}.running_var")
    ]
    if not found:
        raise UsageError(
            "fold_norms was asked for, but the checkpoint has no batch norm behind a layer that the model lacks, "
            "or neither order nor names tell which layer that is"
        )
    gone = {f"{fold.norm}.{role}" for fold in found for role in ("weight", "bias", "running_mean", "running_var")}
    gone |= {f"{fold.norm}.num_batches_tracked" for fold in found}
    folds = {f"{fold.layer}.{role}": fold for fold in found for role in ("weight", "bias")}
    shown: dict[str, TensorSpec] = {}
    for key, spec in specs.items():
        if key in gone:
            continue
        shown[key] = spec
        bias = key.removesuffix("weight") + "bias"
        if key in folds and bias not in specs:  # behind the weight of a layer that gets the norm's shift as its bias
            shown[bias] = TensorSpec(bias, specs[f"{folds[key].norm}.running_mean"].shape, spec.dtype)
    lost = {norm: layers for norm, layers in told.alone.items() if not _has(kept, f"{norm}.running_var")}
    return Folding(specs, shown, target, folds, eps, {layer: norm for norm, layers in lost.items() for layer in layers})


def _has(names: Iterable[str], key: str) -> bool:
    return any(name == key or name.endswith("." + key) or key.endswith("." + name) for name in names)


def _unfolded(step: Step, folding: Folding) -> Step:
    folds = [folding.folds[feed.key] for feed in step.feeds if feed.key in folding.folds]
    if not folds:
        norm = next((norm for feed in step.feeds if (norm := folding.open.get(feed.key.rpartition(".")[0]))), "")
        return _doubted(step, norm) if norm and not step.why.doubt else step
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
    sure = Certainty.LIKELY if folding.eps is None or fold.pair.by_name else Certainty.CERTAIN
    return replace(
        step,
        feeds=tuple(Feed(key, (), feed.network) for key in keys),
        ops=(op, *feed.ops, *step.ops),
        why=replace(step.why, rule=Ground.FOLDED_NORM, text=f"{step.why.text}; {said}"),
        certainty=least_certain([sure, step.certainty]),
    )


def _doubted(step: Step, norm: str) -> Step:
    """Return a step in doubt for a norm that may have to be folded into it."""
    text = (
        f"the norm {printable(norm)} of the file, which the model lacks, may stand behind this layer: neither order nor "
        "names tell"
    )
    return replace(step, why=step.why.in_doubt(Doubt("norm_of_no_layer", text)), certainty=Certainty.DOUBT)
