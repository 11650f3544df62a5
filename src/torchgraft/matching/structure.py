"""Matching where names alone don't settle it: the whole of both sides is aligned by shapes, names and neighbours."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES, natural_key
from torchgraft.core.plan import Alternative, Certainty, Why
from torchgraft.core.system.fast_objects import maker
from torchgraft.matching.doubts import Found, doubted
from torchgraft.matching.doubts.lists import even_lists, is_by_other_number
from torchgraft.matching.evidence.trust import trusted
from torchgraft.matching.judging.certainty import AKIN, AROUND, CERTAIN, LIKELY, Familiar, Sureness, sureness
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.modules import told_by_modules, told_in_place
from torchgraft.matching.judging.reasons import OTHER_NAME
from torchgraft.matching.judging.rest import told_by_the_rest
from torchgraft.matching.judging.rivals import HALF
from torchgraft.matching.names.added_modules import AddedModules
from torchgraft.matching.names.naming import SAME_NAME, Naming
from torchgraft.matching.names.words import read_alike
from torchgraft.matching.names.wrappers import WithoutWrapper, without_wrapper
from torchgraft.matching.parts.cut_both import cut_both
from torchgraft.matching.parts.units import Unit, group, same_roles
from torchgraft.matching.solving.large import solve_large
from torchgraft.matching.solving.read_as_blocks import read_as_blocks
from torchgraft.matching.solving.solve import Problem
from torchgraft.matching.tables.stated import Models

_make_match, _make_why = maker(Match), maker(Why)


# A pair of units, and how sure it is.
Judged = tuple[Pair, Sureness]


def by_structure(
    sources: Sequence[Leaf],
    targets: Sequence[Leaf],
    naming: Naming,
    models: Models,
    *,
    registered: tuple[bool, bool],
    ruled: Container[str] = (),
) -> Matching:
    """Return the best reading of all the evidence; what no evidence carries stays free on both sides.

    `registered`: which side comes as a model registers it. `ruled`: names of sources that the caller gives them.
    """
    seen = without_wrapper(sources, targets, naming, keep=models.source is not None)
    problem = _problem(seen, targets, models, registered)
    pairs = _sure_enough(solve_large(problem), problem, seen, _keys_of(sources, naming.parted))
    pairs = _outside_of_added(pairs, problem)
    pairs = _with_doubts(pairs, problem, _keys_of(sources, ruled))
    return seen.back(_as_matching(pairs, problem, naming))


def _problem(seen: WithoutWrapper, targets: Sequence[Leaf], models: Models, registered: tuple[bool, bool]) -> Problem:
    """Return both sides as units, with what their names say."""
    leaves = cut_both(seen.sources, targets, seen.pairs, models)
    units = group(*leaves), group(*reversed(leaves))
    ours, theirs = (
        side if told else sorted(side, key=_by_number) for side, told in zip(units, registered, strict=True)
    )
    source_units, target_units = read_as_blocks(ours, theirs, registered)
    named = _units_of_one_name(source_units, target_units, seen.pairs)
    pinned = trusted(named, source_units, target_units)
    return Problem(sources=source_units, targets=target_units, named=named, pinned=pinned, registered=registered)


def _by_number(unit: Unit) -> tuple[tuple[int, int, str], ...]:
    return natural_key(unit.path)


def _sure_enough(pairs: Sequence[Pair], problem: Problem, seen: WithoutWrapper, parted: Container[str]) -> list[Judged]:
    """Return the pairs for which enough speaks, with how sure they are by themselves.

    `parted` are keys of tensors that a rule takes out of a module whose others stay where they are.
    """
    sources, targets = problem.sources, problem.targets
    named = problem.named if seen.plain == seen.pairs else _units_of_one_name(sources, targets, seen.plain)
    parts = Familiar(pairs, named, sources, targets)
    even = even_lists(sources), even_lists(targets)
    found: list[Judged] = []
    strictly: set[int] = set()
    for pair in pairs:
        familiar = parts.holds(pair) and not _is_named_part(pair, sources[pair.source], targets[pair.target])
        sure = sureness(pair, familiar=familiar, unordered=not all(problem.registered))
        if sure is None and pair.fits and pair.in_order and parts.is_foreign_beside_lists(pair):
            sure = Sureness(Certainty.DOUBT, OTHER_NAME)  # a last norm must not stay fresh without a word
        if sure == CERTAIN and (
            (parted and _is_of(sources[pair.source], parted))
            or (not pair.named and is_by_other_number(sources[pair.source], targets[pair.target], even))
        ):
            sure = LIKELY
        if familiar:
            strictly.add(pair.target)
        if sure is not None:
            found.append((pair, sure))
    found = told_in_place(told_by_modules(found, pairs, (sources, targets)), pairs, (sources, targets))
    return found if all(problem.registered) else told_by_the_rest(found, pairs, strictly, (sources, targets))


def _outside_of_added(pairs: Sequence[Judged], problem: Problem) -> list[Judged]:
    """Return the pairs without what would go by its last name into a module that was added to the model."""
    sources, targets = problem.sources, problem.targets
    fed = {pair.target for pair, _ in pairs}
    added = AddedModules(
        ((sources[pair.source].path, targets[pair.target].path) for pair, _ in pairs if pair.named),
        [unit.path for at, unit in enumerate(targets) if at not in fed],
    )
    return [
        (pair, sure)
        for pair, sure in pairs
        if pair.named or not added.have(sources[pair.source].path, targets[pair.target].path)
    ]


def _with_doubts(pairs: Sequence[Judged], problem: Problem, ruled: Container[str]) -> list[Judged]:
    """Return the pairs, those in doubt that all together speak against; without doubtful ones that nobody needs to hear of.

    `ruled` are keys of tensors that the caller names.
    """
    sources, targets = problem.sources, problem.targets
    doubts = doubted(
        Found(
            pairs=[pair for pair, _ in pairs],
            sources=sources,
            targets=targets,
            registered=problem.registered,
            ruled=frozenset([at for at, unit in enumerate(sources) if _is_of(unit, ruled)]) if ruled else frozenset(),
        )
    )
    told = [
        (pair, Sureness(Certainty.DOUBT, doubts[pair.target]) if pair.target in doubts and not sure.doubt else sure)
        for pair, sure in pairs
    ]
    return [(pair, sure) for pair, sure in told if not (sure.doubt and _is_harmless(targets[pair.target]))]


def _as_matching(pairs: Iterable[Judged], problem: Problem, naming: Naming) -> Matching:
    """Return what pairs of units say of their leaves."""
    matches = [m for pair, sure in pairs for m in _leaf_matches(pair, sure, problem, naming)]
    fed, used = {m.target.name for m in matches}, {m.source.name for m in matches}
    return Matching(
        matches=tuple(matches),
        free_targets=tuple([leaf for u in problem.targets for leaf in u.leaves.values() if leaf.name not in fed]),
        free_sources=tuple([leaf for u in problem.sources for leaf in u.leaves.values() if leaf.name not in used]),
    )


def _keys_of(leaves: Iterable[Leaf], names: Container[str]) -> set[str]:
    """Return the keys of the leaves of these names."""
    return {key for leaf in leaves if leaf.name in names for key in leaf.keys}


def _units_of_one_name(sources: Sequence[Unit], targets: Sequence[Unit], named: Mapping[str, str]) -> dict[int, int]:
    """Return the units whose tensors, of those that names pair, all go to one unit."""
    if not named:
        return {}
    at = {leaf.name: j for j, unit in enumerate(targets) for leaf in unit.leaves.values()}
    found: dict[int, int] = {}
    for i, unit in enumerate(sources):
        places = {at[to] for leaf in unit.leaves.values() if (to := named.get(leaf.name)) in at}
        if len(places) == 1:
            found[i] = places.pop()
    return found


def _is_named_part(pair: Pair, source: Unit, target: Unit) -> bool:
    """Return whether one is a part of a fused tensor and names are akin: a part has fewer words than a tensor apart."""
    leaves = (*source.leaves.values(), *target.leaves.values())
    return pair.name >= AKIN and any(leaf.part is not None for leaf in leaves)


def _is_of(unit: Unit, keys: Container[str]) -> bool:
    return any(key in keys for leaf in unit.leaves.values() for key in leaf.keys)


def _is_harmless(unit: Unit) -> bool:
    return all(leaf.role in DERIVED_ROLES for leaf in unit.leaves.values())


def _leaf_matches(pair: Pair, sure: Sureness, problem: Problem, naming: Naming) -> list[Match]:
    source, target = problem.sources[pair.source], problem.targets[pair.target]
    why = _why(pair, source, target, naming)
    why = why.in_doubt(sure.doubt) if sure.doubt else why
    alternatives: tuple[Alternative, ...] = ()
    if pair.rivalry.runner_up is not None and sure.certainty is not Certainty.CERTAIN:
        rival = problem.sources[pair.rivalry.runner_up]
        keys = tuple(k for leaf in rival.leaves.values() for k in leaf.keys)
        alternatives = (Alternative(keys, f"{rival.path} has the same shapes"),)
    pairs = same_roles(source, target)
    if sure.doubt and not any(a.shape == b.shape and a.role not in DERIVED_ROLES for a, b in pairs):
        pairs = [(a, b) for a, b in pairs if a.role not in DERIVED_ROLES]  # a counter alone is nothing to ask about
    return [
        _make_match(target=b, source=a, why=why, certainty=sure.certainty, alternatives=alternatives) for a, b in pairs
    ]


def _why(pair: Pair, source: Unit, target: Unit, naming: Naming) -> Why:
    evidence = []
    ours, theirs = source.block, target.block
    if pair.name > HALF:
        evidence.append(_names_alike(pair.name))
    if pair.in_order:
        evidence.append("same place in the order")
    if pair.block > AROUND and ours:
        evidence.append(_blocks_agree(ours, theirs, pair.block))
    if pair.tail > AROUND:
        evidence.append(_tails_agree(source.tail, target.tail, pair.tail))
    here, there = source.tail, target.tail
    if pair.named:
        by_name = naming.reason(*same_roles(source, target)[0])
        evidence += [by_name.text] if by_name != SAME_NAME else []
        moved = here == there and ours != theirs
        text = f"{ours} read as {theirs}; same name" if moved and ours and theirs else "same name"
        return _make_why(Ground.NAME, text, tuple(evidence))
    evidence += _readings(source, target)
    if here == there:
        old, new = ours or source.path, theirs or target.path
        text = f"{old} stands where {new} does" if old != new else f"{new} by its name and place"
        return _make_why(Ground.SEQUENCE, text, tuple(evidence))
    return _make_why(
        Ground.STRUCTURE, f"{here or 'the top level'} corresponds to {there or 'the top level'}", tuple(evidence)
    )


def _readings(source: Unit, target: Unit) -> Iterator[str]:
    """Yield how names had to be read to be alike: by what stands beside them, and by entries of the dialect."""
    for unit in (source, target):
        if unit.said:
            yield f"{unit.tail} read as {unit.said.removeprefix(f'{unit.block}.')} by what stands beside it"
    yield from read_alike(source.said or source.path, target.said or target.path)


# The units of a block come one after the other and say the same of it; so do those at one place of all blocks.
@lru_cache
def _names_alike(share: float) -> str:
    return f"names alike ({share:.0%})"


@lru_cache
def _blocks_agree(ours: str, theirs: str, share: float) -> str:
    return f"{ours} and {theirs} agree in {min(share, 1.0):.0%}"


@lru_cache
def _tails_agree(ours: str, theirs: str, share: float) -> str:
    return f"{ours or 'block'} is {theirs or 'block'} in {min(share, 1.0):.0%} of the cases"
