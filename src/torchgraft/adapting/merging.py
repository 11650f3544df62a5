"""Adapters in one file with their weights: matched as the weights alone, and merged as these are read.

So they go wherever their weights do: into a model with other names, with fewer layers, with layers stored another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.adapting.lora import TURNED, Adapter, Scales, adapters_in, base_of, doubted_where_tied, merge_of
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.grounds import Ground
from torchgraft.core.names import ends
from torchgraft.core.plan import Feed, Step, Unused, Why
from torchgraft.core.specs import Network, Target, TensorSpec
from torchgraft.ops import Transpose


@dataclass(frozen=True, slots=True)
class Merged:
    """The file without its adapters, `shown`; `adapters` are those of its weights, by their keys."""

    network: Network
    shown: Mapping[str, TensorSpec]
    target: Target
    adapters: Mapping[str, Adapter]
    scales: Scales

    def original_steps(self, steps: Mapping[str, Step]) -> dict[str, Step]:
        """Return the steps with adapters added to weights of the file before anything else is done to these.

        Raises:
            UsageError: a weight becomes a part of a larger one; or its adapter doesn't fit, or has no known scale.
        """
        return {name: self._with_adapter(step) for name, step in steps.items()}

    def _with_adapter(self, step: Step) -> Step:
        adapted = [feed.key for feed in step.feeds if feed.key in self.adapters]
        if not adapted:
            return step
        if len(step.feeds) > 1:
            raise UsageError(
                f"{printable(adapted[0])} is one of {len(step.feeds)} parts of {printable(step.slot.name)}, so its adapter "
                "can't be merged on the way: merge it with the library that wrote it, or give a model that has the parts apart"
            )
        (feed,) = step.feeds
        adapter, ops = self.adapters[feed.key], (*feed.ops, *step.ops)
        turned = (step.slot.kind in TURNED) != any(isinstance(op, Transpose) for op in ops)
        merging = merge_of(adapter, self.network.specs[feed.key], self.network, self.scales, turned=turned)
        text = f"rank {merging.rank}, added to {feed.key}{merging.how}"
        made = replace(
            step,
            feeds=(Feed(feed.key, (), feed.network), *merging.feeds),
            ops=(merging.op, *ops),
            why=replace(step.why, rule=Ground.ADAPTER, text=f"{step.why.text}; {text}" if step.renamed else text),
        )
        return doubted_where_tied(made, self._name_in(step), self.target)

    def _name_in(self, step: Step) -> str:
        """Return the name of a slot under which its adapter was trained; the first where none is the one that the file has."""
        path = f".{self.adapters[step.feeds[0].key].stem}.weight"
        return next((name for name in step.slot.names if path.endswith(f".{name}")), step.slot.name)

    def original_unused(self, unused: Sequence[Unused], steps: Iterable[Step], network: str) -> tuple[Unused, ...]:
        """Return the fates of the file's own tensors: an adapter is unused where its weight is.

        Raises:
            UsageError: an adapted weight is one with another in the model, which is used in its place.
        """
        steps = tuple(steps)
        tied = {name: step for step in steps if step.feeds and step.slot.aliases for name in step.slot.names}
        used = {feed.key for step in steps for feed in step.feeds}
        fates = {one.spec.name: one for one in unused}
        why = Why(Ground.ADAPTER, "the weight that it belongs to isn't used")
        for base, adapter in self.adapters.items():
            one = next((tied[end] for end in ends(f"{adapter.stem}.weight") if end in tied), None)
            if base not in used and one is not None:
                raise UsageError(
                    f"{printable(base)} is one with {printable(one.feeds[0].key)} in the model, and its adapter would change "
                    "both: untie them before"
                )
            for key in adapter.keys.values():
                if key not in used:
                    fates[key] = Unused(spec=self.network.specs[key], network=network, why=why)
        return tuple(fates[key] for key in self.network.specs if key in fates)


def merged_beside(network: Network, target: Target, scales: Scales) -> Merged | None:
    """Return the file as if its adapters were merged into the weights that it holds; None where it holds none with weights.

    Raises:
        UsageError: a tensor that is part of an adapter can't be merged.
    """
    specs = network.specs
    adapters = {base: one for one in adapters_in(specs) if (base := base_of(one, specs)) is not None}
    hidden = {key for adapter in adapters.values() for key in adapter.keys.values()}
    shown = {key: spec for key, spec in specs.items() if key not in hidden}
    return Merged(network, shown, target, adapters, scales) if adapters else None
