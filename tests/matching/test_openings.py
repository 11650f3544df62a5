"""What is counted once for all pairs is what each pair would find by asking all others."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.evidence.order import Order
from torchgraft.matching.judging.openings import openings
from torchgraft.matching.names.lists import stem
from torchgraft.matching.parts.units import group


def side(dice, count):
    places = ["net.{}", "net.{}.fc", "layer{}", "body.layer{}", "head", "body.net.{}"]
    names = {dice.choice(places).format(dice.randrange(6)) for _ in range(count)}
    return group([
        Leaf(name=f"{name}.weight", shape=(dice.choice((2, 3)), 4), dtype=DType.F32, keys=(name,), order=at)
        for at, name in enumerate(sorted(names, key=lambda _: dice.random()))
    ])  # fmt: skip


def beside(units, first, second):
    """Whether two units are members of one list themselves."""
    a, b = (units[at].path.rpartition(".") for at in (first, second))
    return a[0] == b[0] and stem(a[2]) is not None and stem(a[2]) == stem(b[2])


def subset(dice, rows, columns, share):
    """Some pairs, each row and each column at most once."""
    pairs = list(zip(dice.sample(range(rows), rows), dice.sample(range(columns), columns), strict=False))
    return {i: j for i, j in pairs if dice.random() < share}


@pytest.mark.parametrize("seed", range(60))
def test_openings_are_those_that_each_pair_finds(seed):
    dice = random.Random(seed)  # noqa: S311
    ours, theirs = side(dice, 12), side(dice, 12)
    orders = Order.of(ours, registered=True), Order.of(theirs, registered=True)
    fits = np.array([[a.leaves["weight"].shape == b.leaves["weight"].shape for b in theirs] for a in ours])
    uneven = np.array([[dice.random() < 0.1 for _ in theirs] for _ in ours])
    evidence = SimpleNamespace(fits=fits, uneven=uneven)
    regions = [unit.path.split(".")[0] for unit in ours], [unit.path.split(".")[0] for unit in theirs]
    named, pairs = subset(dice, len(ours), len(theirs), 0.7), subset(dice, len(ours), len(theirs), 0.8)
    found = openings(list(pairs.items()), named, evidence, regions, orders)
    sure = {i: j for i, j in named.items() if fits[i, j]}
    for i, j in pairs.items():
        sources = [k for k in range(len(ours)) if fits[k, j] and k not in sure and regions[0][k] == regions[0][i]]
        targets = [
            k for k in range(len(theirs)) if fits[i, k] and k not in sure.values() and regions[1][k] == regions[1][j]
        ]
        outdone = uneven[i, j] and (
            any(beside(ours, i, k) for k in range(len(ours)) if fits[k, j] and not uneven[k, j] and k not in pairs)
            or any(
                beside(theirs, j, k)
                for k in range(len(theirs))
                if fits[i, k] and not uneven[i, k] and k not in pairs.values()
            )
        )
        misled = any(regions[0][a] == regions[0][i] for a in named if a not in sure)
        wanted = not (sources or targets) if misled else not (sources and targets)
        assert found.is_unquestioned(i, j) == (wanted and not outdone)
        shifted = (
            named.get(i) != j
            or any(beside(ours, i, a) for a in named if a not in sure)
            or (
                any(beside(ours, i, a) for a in range(len(ours)) if a not in named)
                and any(beside(theirs, j, b) for b in range(len(theirs)) if b not in named.values())
            )
        )
        like = any(
            beside(ours, i, k) and not orders[0].separates(i, k)
            for k in range(len(ours)) if fits[k, j] and k not in pairs
        ) or any(
            beside(theirs, j, k) and not orders[1].separates(j, k)
            for k in range(len(theirs)) if fits[i, k] and k not in pairs.values()
        )  # fmt: skip
        assert found.is_adjoined(i, j) == (outdone or (shifted and like))


@pytest.mark.parametrize("seed", range(20))
def test_an_exchange_exchanges_the_first_numbers_that_differ(seed):
    dice = random.Random(seed)  # noqa: S311
    units = side(dice, 14)
    order = Order.of(units, registered=True)
    for i, first in enumerate(units):
        for k, second in enumerate(units):
            found = order.exchange(i, k)
            a, b = first.path.split("."), second.path.split(".")
            at = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            same = at is not None and stem(a[at]) is not None and stem(a[at]) == stem(b[at])
            assert order.numbered(i, k) == same
            if not same:
                assert found is None
                continue
            likes = [
                order.index.get(".".join([*one[:at], other[at], *one[at + 1 :]])) for one, other in ((a, b), (b, a))
            ]
            rising = int(a[at].lstrip("layer")) < int(b[at].lstrip("layer"))
            assert found == (None if None in likes else (rising, tuple(likes)))
