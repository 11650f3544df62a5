"""In a file that has lost its order: a norm goes where its layer goes, and what is left alone of its kind takes the place left."""

from itertools import permutations

import pytest
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.evidence.companions import layers_of_norms, norms_with_layers
from torchgraft.matching.parts.units import group

WIDTH, KERNELS = 8, 3


def named(parts):
    return nn.ModuleDict(parts)


def numbered(blocks):
    """Norms called by the numbers of their convolutions."""

    def block():
        layers = {f"conv{at}": nn.Conv2d(WIDTH, WIDTH, 2 * at - 1, bias=False) for at in range(1, KERNELS + 1)}
        return named(layers | {f"bn{at}": nn.BatchNorm2d(WIDTH) for at in range(1, KERNELS + 1)})

    return filled(named({"layer": nn.ModuleList([block() for _ in range(blocks)]), "fc": nn.Linear(WIDTH, 5)}))


def together(blocks):
    """Norms each in one module with its convolution."""

    def block():
        pairs = {
            f"unit{at}": named({"filter": nn.Conv2d(WIDTH, WIDTH, 2 * at - 1, bias=False), "x": nn.BatchNorm2d(WIDTH)})
            for at in range(1, KERNELS + 1)
        }
        return named(pairs)

    return filled(named({"stage": nn.ModuleList([block() for _ in range(blocks)]), "output": nn.Linear(WIDTH, 5)}))


def in_turn(blocks):
    """Norms behind their convolutions in one list."""

    def block():
        layers = [
            (nn.Conv2d(WIDTH, WIDTH, 2 * at - 1, bias=False), nn.BatchNorm2d(WIDTH)) for at in range(1, KERNELS + 1)
        ]
        return named({"body": nn.Sequential(*[layer for pair in layers for layer in pair])})

    return filled(named({"blocks": nn.ModuleList([block() for _ in range(blocks)]), "head": nn.Linear(WIDTH, 5)}))


WAYS = {"numbered": numbered, "together": together, "in turn": in_turn}


def sorted_file(model):
    return dict(sorted(model.state_dict().items()))


@pytest.mark.parametrize(("own", "theirs"), permutations(WAYS, 2))
def test_a_norm_goes_where_its_layer_goes(own, theirs):
    model, saved = WAYS[own](2), WAYS[theirs](2)
    plan = tg.plan(model, sorted_file(saved))
    kernels = dict(zip(_norms(model), _norms(saved), strict=True))
    assert {step.slot.name: step.feeds[0].key for step in plan.steps if step.slot.name in kernels} == kernels


def _norms(model):
    """Return the weights of norms as they are registered: block by block, each behind the last one's layer."""
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def units(**shapes):
    leaves = [
        Leaf(name=f"{path}.{role}", shape=size, dtype=DType.F32, keys=(f"{path}.{role}",), order=at)
        for at, (path, roles) in enumerate(shapes.items())
        for role, size in roles.items()
    ]
    return group(leaves)


def layer(*shape):
    return {"weight": shape}


def norm(width):
    return {"weight": (width,), "bias": (width,)}


def told(**shapes):
    found = units(**shapes)
    return {found[at].path: found[of].path for at, of in layers_of_norms(found).items()}


def test_two_norms_beside_one_layer_tell_nothing():
    assert told(**{"m.conv": layer(4, 4), "m.before": norm(4), "m.after": norm(4)}) == {}


def test_numbers_of_matrices_and_of_norms_are_counted_apart():
    assert told(linear1=layer(4, 4), norm1=norm(4), linear2=layer(4, 4), norm2=norm(4)) == {}
    assert told(conv1=layer(4, 4, 1, 1), norm1=norm(4), conv2=layer(4, 4, 1, 1)) == {"norm1": "conv1"}


def test_norms_in_front_of_the_layers_of_a_list_belong_to_what_comes_next():
    row = {"0": norm(4), "2": layer(4, 4), "3": norm(4), "5": layer(4, 4)}
    assert told(**{f"body.{at}": shapes for at, shapes in row.items()}) == {"body.0": "body.2", "body.3": "body.5"}


def test_of_a_list_that_begins_and_ends_with_a_layer_it_is_not_known():
    row = {"0": layer(4, 4), "1": norm(4), "2": layer(4, 4)}
    assert told(**{f"body.{at}": shapes for at, shapes in row.items()}) == {}


def test_a_layer_with_a_norm_on_one_side_only_leaves_open_where_norms_belong():
    ours = units(conv0=layer(4, 4, 1, 1), conv1=layer(4, 4, 3, 3), norm1=norm(4))
    theirs = units(**{"a.conv": layer(4, 4, 1, 1), "a.norm": norm(4), "b": layer(4, 4, 3, 3)})
    at = {unit.path: at for at, unit in enumerate(ours)}, {unit.path: at for at, unit in enumerate(theirs)}
    layers = [(at[0]["conv0"], at[1]["a.conv"]), (at[0]["conv1"], at[1]["b"])]
    assert norms_with_layers(layers, ours, theirs) == {}


def lone(head, last):
    blocks = nn.ModuleList([nn.Linear(WIDTH, WIDTH + at) for at in range(1, 4)])
    return filled(named({"blocks": blocks, head: last}))


def test_the_only_layer_of_its_kind_takes_the_only_place_that_is_left():
    model, saved = together(2), numbered(2)
    by_name = tg.plan(model, sorted_file(saved)).by_name
    assert by_name["output.weight"].feeds[0].key == "fc.weight"


def test_not_where_something_else_is_left_free():
    saved = sorted_file(numbered(2)) | {"aux.weight": nn.Linear(WIDTH, 7).weight.detach()}
    plan = tg.plan(together(2), dict(sorted(saved.items())), on_doubt="skip")
    assert not plan.by_name["output.weight"].feeds


def test_not_in_a_file_whose_other_names_agree():
    saved = sorted_file(lone("zeta", nn.Linear(WIDTH, 2)))
    plan = tg.plan(lone("classifier", nn.Linear(WIDTH, 2)), saved, on_doubt="skip")
    assert not plan.by_name["classifier.weight"].feeds


def test_a_table_is_no_layer():
    """A table of two kinds of tokens has the shape of a head for two classes."""
    model, saved = together(2), numbered(2)
    model["output"], saved["fc"] = nn.Linear(WIDTH, 2, bias=False), nn.Embedding(2, WIDTH)
    plan = tg.plan(model, sorted_file(saved), on_doubt="skip")
    assert not plan.by_name["output.weight"].feeds
