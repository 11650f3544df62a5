"""What a file's order says where it was sorted, sharded, sorted by type, turned round or shuffled: nothing about words."""

import random

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg

WIDTH = 8
SIZES = (WIDTH, WIDTH), (WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH), (WIDTH, WIDTH)
FILES = ("start", "grow", "shrink", "end"), ("squeeze", "wide", "slim", "merge")
MODELS = ("fc1", "fc2", "fc3", "fc4"), ("lin_a", "lin_b", "lin_c", "lin_d"), ("enter", "expand", "reduce", "leave")


def net(names, count=4):
    blocks = [
        nn.ModuleDict({name: nn.Linear(*size) for name, size in zip(names, SIZES, strict=True)}) for _ in range(count)
    ]
    return filled(nn.ModuleDict({"blocks": nn.ModuleList(blocks), "out": nn.Linear(WIDTH, WIDTH)}))


def shuffled(names):
    return random.Random(0).sample(names, len(names))  # noqa: S311  # no secrets


def in_shards(names):
    half = len(names) // 2
    return [*sorted(names[:half]), *sorted(names[half:])]


ORDERS = {
    "sorted": sorted,
    "in shards": in_shards,
    "turned round": lambda names: names[::-1],
    "shuffled": shuffled,
}


def wrong(model, saved, order):
    """Return the slots that get another tensor than that of their place, of `saved` in another order."""
    truth = dict(zip(model.state_dict(), saved, strict=True))
    plan = tg.plan(model, {name: saved[name] for name in order(list(saved))}, on_doubt="skip")
    return {
        step.slot.name: step.feeds[0].key
        for step in plan.steps
        if step.feeds and truth[step.slot.name] != step.feeds[0].key
    }


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("names", FILES, ids=" ".join)
@pytest.mark.parametrize("own", MODELS, ids=" ".join)
def test_layers_of_one_shape_do_not_change_places(own, names, order):
    assert wrong(net(own), net(names).state_dict(), order) == {}


def test_order_of_registration_tells_them_apart():
    model, saved = net(MODELS[0]), net(FILES[0]).state_dict()
    tg.load(model, saved)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), saved.values(), strict=True))


def test_a_model_known_by_a_sorted_list_of_names_has_no_order_either():
    saved, names = net(FILES[0]).state_dict(), net(MODELS[2]).state_dict()
    truth = dict(zip(names, saved, strict=True))
    plan = tg.plan(dict(sorted(names.items())), saved, on_doubt="skip")
    assert all(truth[step.slot.name] == step.feeds[0].key for step in plan.steps if step.feeds)


def test_a_row_that_starts_beside_itself_is_not_told_by_its_numbers():
    """`layers.0` of three is `proj_in` of the other side, and its `layers.0` the one in the middle."""

    def side(**head):
        return filled(nn.ModuleDict({"stem": nn.Linear(5, WIDTH), "head": nn.ModuleDict(head)}))

    first, mid, last = ((WIDTH, size) for size in (WIDTH, WIDTH, 3))
    file = side(layers=nn.ModuleList(nn.Linear(*size) for size in (first, mid, last)))
    model = side(proj_in=nn.Linear(*first), proj_out=nn.Linear(*last), layers=nn.ModuleList([nn.Linear(*mid)]))
    plan = tg.plan(model, dict(sorted(file.state_dict().items())), on_doubt="skip")
    fed = {step.slot.name: step.feeds[0].key for step in plan.steps if step.feeds}
    assert fed.get("head.layers.0.weight") in (None, "head.layers.1.weight")
