"""Modules around others that only one side has: in the middle of names (`fc.base_layer.weight`), or around most of a side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.match import Leaf, Matching
from torchgraft.core.names import above
from torchgraft.core.specs import Shape
from torchgraft.matching.names.naming import Naming, Prefix

# So many segments may be put in at once: `parametrized.0`.
MOST = 2
# Of more names than these only so many are tried at first, and if none of them is wrapped, none is looked for.
MANY, SAMPLE = 4_000, 200

# With less than this share of its names agreeing, a wrapper says nothing of the others, unless this share of the side is in it.
FEW, NEARLY_ALL = 0.25, 0.8

Place = tuple[str, str]  # the module that was wrapped, and what was put in behind it


@dataclass(frozen=True, slots=True)
class Side:
    """One side: its tensors that are left by name, and all names that it has."""

    left: Mapping[str, Leaf]
    names: Sequence[str]


def wrapped_pairs(sources: Side, targets: Side) -> dict[str, str]:
    """Return what of the source is what of the target, a module around it on one side set aside.

    All tensors of a module must have moved into one that lies in it, and nothing else may be in question: two inner modules
    of these names and shapes, a numbered one that isn't the only one, or another layer in it that comes before (a head that
    became several layers).
    """
    inward = _moves(sources, targets)
    outward = {short: long for long, short in _moves(targets, sources).items()}
    clash = inward.keys() & outward.keys()
    return {a: b for a, b in (inward | outward).items() if a not in clash}


def _moves(outer: Side, inner: Side) -> dict[str, str]:
    """Return, for names of `outer`, the longer names of `inner` that they have where a module is wrapped there."""
    found: dict[Place, dict[str, str]] = defaultdict(dict)
    names = list(inner.left)
    if len(names) > MANY and not any(
        short in outer.left for n in names[:: len(names) // SAMPLE] for short, _ in _shorter(n)
    ):
        return {}
    for name in names:
        for short, place in _shorter(name):
            if short in outer.left:
                found[place][short] = name
    if not found:
        return {}
    modules = {place[0] for place in found}
    held, children = _held(outer.names, modules), _children(inner.names, modules)
    fits: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    matrices = _matrices(inner.left, modules)
    for (module, put_in), pairs in found.items():
        whole = len(pairs) == held[module]
        alike = any(outer.left[a].shape == inner.left[b].shape for a, b in pairs.items())
        alone = not any(part.isdecimal() for part in put_in.split(".")) or children[module] == {put_in.split(".")[0]}
        if whole and alike and alone and not _has_layer_before(pairs, outer, matrices[module]):
            fits[module].append(pairs)
    return _told(fits, outer, inner)


def _has_layer_before(pairs: Mapping[str, str], outer: Side, matrices: Mapping[str, Shape]) -> bool:
    """Return whether a layer beside the wrapped one makes its input out of what the outer one reads: `dense`, `out_proj`."""
    widths = [outer.left[name].shape[1] for name in pairs if len(outer.left[name].shape) > 1]
    beside = [shape[:2] for name, shape in matrices.items() if name not in pairs.values()]
    return any(shape == (width, width) for shape in beside for width in widths)


def _matrices(left: Mapping[str, Leaf], modules: Collection[str]) -> Mapping[str, Mapping[str, Shape]]:
    """Return for each of the modules the shapes of the matrices and kernels in it."""
    found: dict[str, dict[str, Shape]] = {module: {} for module in modules}
    for name, leaf in left.items():
        for around in above(name) if len(leaf.shape) > 1 else ():
            if around in found:
                found[around][name] = leaf.shape
    return found


def _told(fits: Mapping[str, list[Mapping[str, str]]], outer: Side, inner: Side) -> dict[str, str]:
    """Return the pairs of the modules for which one place fits, or fits in all shapes, and of which no other claims a name."""
    chosen: dict[str, str] = {}
    claims: dict[str, set[str]] = defaultdict(set)
    for places in fits.values():
        best = [p for p in places if all(outer.left[a].shape == inner.left[b].shape for a, b in p.items())] or places
        for pairs in best:
            for a, b in pairs.items():
                claims[a].add(b)
                claims[b].add(a)
        if len(best) == 1:
            chosen |= best[0]
    return {a: b for a, b in chosen.items() if len(claims[a]) == len(claims[b]) == 1}


def _shorter(name: str) -> Iterator[tuple[str, Place]]:
    """Yield what a name is without segments in its middle, and where they were."""
    parts = name.split(".")
    for count in range(1, MOST + 1):
        for at in range(1, len(parts) - count):
            module, put_in = ".".join(parts[:at]), ".".join(parts[at : at + count])
            yield ".".join((module, *parts[at + count :])), (module, put_in)


def _held(names: Iterable[str], modules: set[str]) -> dict[str, int]:
    """Return how many of the names lie in each of the modules."""
    held = dict.fromkeys(modules, 0)
    for name in names:
        for around in above(name):
            if around in held:
                held[around] += 1
    return held


def _children(names: Iterable[str], modules: set[str]) -> dict[str, set[str]]:
    """Return the first segments behind each of the modules."""
    children: dict[str, set[str]] = {module: set() for module in modules}
    for name in names:
        for around in above(name):
            if around in children:
                children[around].add(name[len(around) + 1 :].partition(".")[0])
    return children


@dataclass(frozen=True, slots=True)
class WithoutWrapper:
    """The file's leaves with `rule` applied to their names, the names that pair, and the way back.

    `plain` are the pairs without those for which a module in the middle of a name is set aside. `moved` are the keys of the
    leaves that have another name.
    """

    sources: Sequence[Leaf]
    pairs: Mapping[str, str]
    plain: Mapping[str, str]
    rule: Prefix | None = None
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
        if self.rule is None or leaf.keys[0] not in self.moved:
            return leaf
        return replace(leaf, name=self.rule.old + leaf.name[len(self.rule.new) :])


def without_wrapper(sources: Sequence[Leaf], targets: Sequence[Leaf], naming: Naming, *, keep: bool) -> WithoutWrapper:
    """Return the file's leaves without the wrapper around most of one side.

    What no rule pairs takes part in that, too, unless another rule leads its part of the network elsewhere: behind an inserted
    layer all numbers are others, and no name is left that agrees but for the wrapper. Where other names have its outermost
    module, too (a final norm beside the wrapped layers), where two tensors would be called alike, where other rules pair more
    names (a lone `norm` is then the wrapper's by chance), where only few agree and the wrapped side has other parts (two
    encoders of which either may be meant), or with `keep`, all names stay as they are.
    """
    told = {name: to for name, to in naming.pairs.items() if name not in naming.wrapped}
    plain = WithoutWrapper(sources, naming.pairs, told)
    rule = next((rule for rule in naming.prefixes if (rule[0] == "") != (rule[1] == "")), None)
    if rule is None or keep:
        return plain
    old, new = rule
    outermost = old.partition(".")[0] + "."
    if old and any(leaf.name.startswith(outermost) and not leaf.name.startswith(old) for leaf in sources):
        return plain
    inside = {leaf.name: new + leaf.name[len(old) :] for leaf in sources if leaf.name.startswith(old)}
    by_others = {name for name in naming.pairs.keys() - naming.wrapped if naming.pairs[name] != inside.get(name)}
    agreed = sum(naming.pairs.get(name) == to for name, to in inside.items())
    if len(by_others) > agreed or (
        agreed < FEW * len(inside) and not _is_nearly_all(old or new, sources if old else targets)
    ):
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
    return WithoutWrapper(shown, pairs, told, rule, frozenset(leaf.keys[0] for leaf in sources if leaf.name in names))


def _is_nearly_all(wrapper: str, leaves: Sequence[Leaf]) -> bool:
    return sum(leaf.name.startswith(wrapper) for leaf in leaves) >= NEARLY_ALL * len(leaves)


def _part(name: str, wrapper: str) -> str:
    """Return the part of the network that a tensor is in: the first segment of its name within the wrapper."""
    return name[len(wrapper) :].partition(".")[0]
