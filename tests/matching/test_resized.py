"""Tensors of another size that fit nowhere else are settled by their names, with the result that weighing everything has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from names_only import given_shapes

from torchgraft import planning
from torchgraft.core.dtypes import DType
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.matching import structure
from torchgraft.request import make_request

KINDS = {
    "fc": ("Linear", (16, 8)), "proj": ("Linear", (8, 16)), "conv": ("Conv2d", (16, 8, 3, 3)), "norm": ("LayerNorm", (8,)),
    "embed": ("Embedding", (50, 8)), "pos_embed": ("", (1, 17, 8)),
}  # fmt: skip
layers = st.lists(
    st.tuples(st.sampled_from(("layers.{}.", "net.{}.", "net.{}.0.", "stage{}.", "")), st.sampled_from(sorted(KINDS)), st.booleans()),
    min_size=1, max_size=9, unique_by=lambda one: one[:2],
)  # fmt: skip
changes = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.sampled_from((5, 7, 10, 1, 8, 16))), max_size=3)


def model_of(shapes, kinds):
    slots = [
        Slot(spec=TensorSpec(name, shape, DType.F32), owner=name.rpartition(".")[0], order=order, kind=kinds[name])
        for order, (name, shape) in enumerate(shapes.items())
    ]
    return Target(tuple(slots), {slot.owner: slot.kind for slot in slots})


def decisions(file, target):
    """Return what feeds each slot, through which ops, and how sure it is."""
    plan = planning.make_plan(given_shapes(file), target, make_request())
    return {step.slot.name: (step.feeds, step.ops, step.rows, step.certainty, step.quiet) for step in plan.steps}


@given(layers, changes)
def test_settled_is_as_weighed(found, changed):
    shapes, kinds = {}, {}
    for number, (place, layer, has_bias) in enumerate(found):
        kind, shape = KINDS[layer]
        path = f"{place.format(number)}{layer}" + (".weight" if kind else "")
        shapes[path], kinds[path] = shape, kind
        if has_bias and kind in ("Linear", "Conv2d", "LayerNorm"):
            bias = path.replace(".weight", ".bias")
            shapes[bias], kinds[bias] = shape[:1], kind
    file = dict(shapes)
    for at, dim, size in changed:
        name = list(shapes)[at % len(shapes)]
        shape = list(file[name])
        shape[dim % len(shape)] = size
        file[name] = tuple(shape)
        bias = name.replace(".weight", ".bias")
        if bias in file:
            file[bias] = tuple(shape[:1])
    target = model_of(shapes, kinds)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "alike", lambda *_: None)
        settled = decisions(file, target)
        patched.setattr("torchgraft.matching.names_alone.have_nowhere_else", lambda *_: False)
        assert settled == decisions(file, target)


BASE = {
    "pos_embed": (1, 17, 8), "stem.weight": (8, 3, 4, 4), "stem.bias": (8,), "layers.0.fc.weight": (8, 8), "layers.0.fc.bias": (8,),
    "layers.1.fc.weight": (8, 8), "layers.1.fc.bias": (8,), "head.weight": (10, 8), "head.bias": (10,),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "is_weighed"),
    [
        ({"pos_embed": (1, 37, 8)}, False),
        ({"stem.weight": (8, 4, 4, 4)}, False),
        ({"head.weight": (100, 8), "head.bias": (100,), "pos_embed": (1, 37, 8)}, False),
        ({"head.weight": (8, 8), "head.bias": (8,)}, True),  # may be one of the layers
        ({"head.bias": (100,)}, True),  # a vector alone says nothing
        ({"layers.0.fc.weight": (10, 8), "layers.0.fc.bias": (10,)}, True),  # as long as the head
        ({"more.weight": (5, 5), "pos_embed": (1, 37, 8)}, True),  # something is left over
    ],
)
def test_only_what_has_nowhere_else_to_go_is_settled_by_name(monkeypatch, changed, is_weighed):
    weighed = []
    by_structure = structure.by_structure
    monkeypatch.setattr(
        structure, "by_structure", lambda *given, **more: weighed.append(1) or by_structure(*given, **more)
    )
    target = model_of(BASE, {name: "Conv2d" if "stem" in name else "" if "pos" in name else "Linear" for name in BASE})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "alike", lambda *_: None)
        planning.make_plan(given_shapes(BASE | changed), target, make_request())
    assert bool(weighed) == is_weighed
