"""Other ways to see a checkpoint and a model, under which their tensors correspond one by one, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from torchgraft.adapting.experts import experts_apart
from torchgraft.adapting.folding_norms import fold_norms
from torchgraft.adapting.lora import Scales
from torchgraft.adapting.merging import merged_beside
from torchgraft.adapting.norm_pairs import stated_eps
from torchgraft.adapting.options import Options
from torchgraft.core.plan import Step, Unused
from torchgraft.core.specs import Network, Target, TensorSpec


class View(Protocol):
    """Both sides as they are to be matched, `shown` and `target`, and how to come back to what is really there."""

    @property
    def shown(self) -> Mapping[str, TensorSpec]:
        """The source's tensors in this view."""
        ...

    @property
    def target(self) -> Target:
        """The model in this view."""
        ...

    def original_steps(self, steps: Mapping[str, Step]) -> dict[str, Step]:
        """Return steps over the tensors that are there, from steps over those in the view, by name of their slot."""
        ...

    def original_unused(self, unused: Sequence[Unused], steps: Iterable[Step], network: str) -> tuple[Unused, ...]:
        """Return the fates of the tensors that are there, from the fates of those in the view."""
        ...


def views_of(
    network: Network,
    target: Target,
    options: Options,
    metadata: Mapping[str, object],
    is_decided: Callable[[str], bool],
) -> tuple[View, ...]:
    """Return the views to match under, each on top of the one before; none where both sides can stay as they are.

    `metadata` are the facts beside the tensors. `is_decided` says of which slots the caller has decided already.

    Raises:
        UsageError: there is nothing to fold, or an adapter is of a kind that can't be merged.
    """
    views: list[View] = []
    merged = merged_beside(network, target, Scales.said(options.merge_lora, metadata)) if options.merge_lora else None
    if merged:
        views.append(merged)
    shown = merged.shown if merged else network.specs
    if options.fold_norms is not False:
        views.append(fold_norms(shown, target, stated_eps(options.fold_norms)))
    shown, seen = (views[-1].shown, views[-1].target) if views else (shown, target)
    apart = experts_apart(shown, seen, is_decided)
    return (*views, apart) if apart else tuple(views)
