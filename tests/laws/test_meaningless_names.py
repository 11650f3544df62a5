"""Names without meaning, and tensors registered in another order, make doubt; never certainty about a wrong tensor."""

from dataclasses import replace
from itertools import groupby

from decoders import SPELLINGS, Decoder, specs_of, stacks
from hypothesis import given, settings
from hypothesis import strategies as st

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import TensorSpec
from torchgraft.matching import Models, match
from torchgraft.surveying import target_from_specs

few = settings(max_examples=25)
ROLES = {"weight", "bias", "running_mean", "running_var"}


def residual(widths, depth, *, wide):
    """Return the specs of a network of residual stages: shortcuts have the shapes of the convolutions beside them."""
    specs = {}

    def put(path, *shape):
        found = {f"{path}.weight": shape}
        if len(shape) == 1:
            found = {f"{path}.{role}": shape for role in ("weight", "bias", "running_mean", "running_var")}
        specs.update({name: TensorSpec(name, shape, DType.F32) for name, shape in found.items()})

    put("conv1", widths[0], 3, 3, 3)
    put("bn1", widths[0])
    for stage, width in enumerate(widths, 1):
        for block in range(depth):
            path = f"layer{stage}.{block}"
            for number in (1, 2, 3):
                put(f"{path}.conv{number}", width, width, *((3, 3) if wide and number == 2 else (1, 1)))
                put(f"{path}.bn{number}", width)
            if block == 0:
                put(f"{path}.downsample.0", width, width, 1, 1)
                put(f"{path}.downsample.1", width)
    put("fc", 10, widths[-1])
    return specs


transformers = st.builds(
    Decoder, stacks, st.sampled_from((2, 3)), st.sampled_from(sorted(SPELLINGS)), bias=st.booleans()
).map(specs_of)
convolutions = st.builds(
    residual, st.lists(st.integers(3, 5), min_size=1, max_size=3), st.integers(1, 3), wide=st.booleans()
)
networks = st.one_of(transformers, convolutions)


def renamed(specs, draw):
    """Return new name -> spec, and new name -> old name, with every word but roles another, none twice."""
    words = sorted({part for name in specs for part in name.split(".") if not part.isdecimal()} - ROLES)
    tokens = draw.sample([a + b + c for a in "bcdfg" for b in "aiou" for c in "lmnrst"], len(words))
    new = dict(zip(words, tokens, strict=True))
    names = {name: ".".join(new.get(part, part) for part in name.split(".")) for name in specs}
    return {names[name]: replace(spec, name=names[name]) for name, spec in specs.items()}, {
        b: a for a, b in names.items()
    }


def shuffled(specs, draw):
    """Return the specs with the modules of each layer in another order, layers and all else in place."""
    out = {}
    for _, layer in groupby(specs, key=_layer):
        modules = [list(names) for _, names in groupby(layer, key=lambda name: name.rpartition(".")[0])]
        draw.shuffle(modules)
        out |= {name: specs[name] for names in modules for name in names}
    return out


def _layer(name):
    parts = name.split(".")
    at = next((n for n, part in enumerate(parts) if part.isdecimal()), None)
    return name if at is None else tuple(parts[: at + 1])


def wrong(source, target, true):
    """Return the matches that are called certain and feed a target from another tensor than its own."""
    found = match(source, Models(target_from_specs(target)))
    return [
        (m.source.keys, m.target.keys)
        for m in found.matches
        if m.certainty is Certainty.CERTAIN and true[m.source.keys[0]] != m.target.keys[0]
    ]


@few
@given(networks, st.randoms(use_true_random=False))
def test_renaming_every_word(specs, draw):
    source, true = renamed(specs, draw)
    assert wrong(source, specs, true) == []


@few
@given(networks, st.randoms(use_true_random=False))
def test_registering_modules_in_another_order(specs, draw):
    assert wrong(shuffled(specs, draw), specs, {name: name for name in specs}) == []


@few
@given(networks, st.randoms(use_true_random=False))
def test_both_at_once(specs, draw):
    source, true = renamed(specs, draw)
    assert wrong(shuffled(source, draw), specs, true) == []


rows = st.lists(st.tuples(st.sampled_from((8, 8, 16)), st.booleans()), min_size=2, max_size=7)


@settings(max_examples=100)
@given(rows, st.randoms(use_true_random=False), st.booleans())
def test_numbers_against_words_in_any_order(row, draw, turned):
    """A row of layers, some with a norm, beside the same under words, registered in another order."""
    shapes, width = [], 8
    for out, normed in row:
        shapes += [[(out, width), (out,)] if normed else [(out, width)]]
        width = out
    numbered = [(f"net.{at}.weight", shape) for at, shape in enumerate(shape for one in shapes for shape in one)]
    words = draw.sample([a + b + c for a in "bcdfg" for b in "aiou" for c in "lmnrst"], len(numbered))
    true = {key: f"{word}.weight" for (key, _), word in zip(numbered, words, strict=True)}
    groups, left = [], list(numbered)
    for one in shapes:
        groups.append([(true[key], shape) for key, shape in left[: len(one)]])
        left = left[len(one) :]
    draw.shuffle(groups)
    ours, theirs = (
        {name: TensorSpec(name, shape, DType.F32) for name, shape in side}
        for side in (numbered, [pair for group in groups for pair in group])
    )
    if turned:
        ours, theirs, true = theirs, ours, {b: a for a, b in true.items()}
    assert wrong(ours, theirs, true) == []
