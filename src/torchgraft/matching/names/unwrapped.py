"""The file's names as they would be without the wrapper that only one side has: paths can then be compared in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.match import Leaf, Matching
from torchgraft.matching.names.prefixes import Naming, Prefix


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The file's leaves with `rule` applied to their names, the names that pair, and the way back.

    `plain` are the pairs without those for which a module in the middle of a name is set aside. `moved` are the keys of the leaves that have another name.
    """

    sources: Sequence[Leaf]
    pairs: Mapping[str, str]
    plain: Mapping[str, str]
    rule: Prefix = ("", "")
    moved: frozenset[str] = frozenset()

    def back(self, matching: Matching) -> Matching:
        """Return the matching with the file's own names."""
        if not self.moved:
            return matching
        return replace(
            matching,
            matches=tuple(replace(m, source=self._own(m.source)) for m in matching.matches),
            free_sources=tuple(map(self._own, matching.free_sources)),
        )

    def _own(self, leaf: Leaf) -> Leaf:
        old, new = self.rule
        return replace(leaf, name=old + leaf.name[len(new) :]) if leaf.keys[0] in self.moved else leaf


def unwrapped(sources: Sequence[Leaf], naming: Naming, *, keep: bool) -> Unwrapped:
    """Return the file's leaves without the wrapper around most of one side.

    What no rule pairs takes part in that, too, unless another rule leads its part of the network elsewhere: behind an inserted
    layer all numbers are others, and no name is left that agrees but for the wrapper. Where other names have its outermost module, too (a final norm beside the wrapped layers),
    where two tensors would be called alike, where other rules pair more names (a lone `norm` is then the wrapper's by chance), or with `keep`, all names stay as they are.
    """
    told = {name: to for name, to in naming.pairs.items() if name not in naming.wrapped}
    plain = Unwrapped(sources, naming.pairs, told)
    rule = next((rule for rule in naming.prefixes if (rule[0] == "") != (rule[1] == "")), None)
    if rule is None or keep:
        return plain
    old, new = rule
    outermost = old.partition(".")[0] + "."
    if old and any(leaf.name.startswith(outermost) and not leaf.name.startswith(old) for leaf in sources):
        return plain
    inside = {leaf.name: new + leaf.name[len(old) :] for leaf in sources if leaf.name.startswith(old)}
    by_others = {name for name in naming.pairs.keys() - naming.wrapped if naming.pairs[name] != inside.get(name)}
    if len(by_others) > sum(naming.pairs.get(name) == to for name, to in inside.items()):
        return plain
    parts = {_part(name, old) for name in by_others}
    names = {
        name: to
        for name, to in inside.items()
        if name not in by_others and (name in naming.pairs or _part(name, old) not in parts)
    }
    shown = [replace(leaf, name=names[leaf.name]) if leaf.name in names else leaf for leaf in sources]
    if len({leaf.name for leaf in shown}) < len(shown):
        return plain
    pairs, told = ({names.get(name, name): to for name, to in each.items()} for each in (naming.pairs, told))
    return Unwrapped(shown, pairs, told, rule, frozenset(leaf.keys[0] for leaf in sources if leaf.name in names))


def _part(name: str, wrapper: str) -> str:
    """Return the part of the network that a tensor is in: the first segment of its name within the wrapper."""
    return name[len(wrapper) :].partition(".")[0]
