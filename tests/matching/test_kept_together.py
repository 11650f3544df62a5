"""Tensors stand for one weight, or belong to one module, only where their shapes allow it."""

import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.core.specs import TensorSpec
from torchgraft.matching.parts.forms import find_forms
from torchgraft.matching.parts.units import group


def specs(**shapes):
    return {name: TensorSpec(name, shape, DType.F32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("magnitude", "direction", "is_form"),
    [
        ((4, 1), (4, 3), True),
        ((1, 3), (4, 3), True),
        ((4, 3), (4, 3), False),  # a value for each element: no magnitude of rows or columns
        ((2, 1), (4, 3), False),
        ((4,), (4, 3), False),
    ],
)
def test_g_and_v_are_a_weight_norm_where_the_one_scales_the_other(magnitude, direction, is_form):
    forms, _ = find_forms(specs(weight_g=magnitude, weight_v=direction))
    assert ({form.kind for form in forms.values()} == {"weight_norm"}) is is_form


def test_a_direction_beside_the_weight_itself_is_no_weight_norm():
    assert find_forms(specs(weight_g=(4, 1), weight_v=(4, 3), weight=(4, 3))) == ({}, {})


@pytest.mark.parametrize(("bias", "together"), [((4,), True), ((3,), True), ((7,), False), ((4, 4), False)])
def test_raw_tensors_are_weight_and_bias_where_the_one_is_as_long_as_a_side_of_the_other(bias, together):
    leaves = [
        Leaf(name=name, shape=shape, dtype=DType.F32, keys=(name,))
        for name, shape in (("fc_w", (4, 3)), ("fc_b", bias))
    ]
    assert ([unit.path for unit in group(leaves)] == ["fc"]) is together
