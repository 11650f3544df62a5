"""What a maker makes can't be told from what its class makes."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf, Match
from torchgraft.core.plan import Certainty, Feed, Step, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.core.system.fast_objects import maker

SPEC = TensorSpec("layer.weight", (2, 3), DType.F32)
LEAF = Leaf(name="layer.weight", shape=(2, 3), dtype=DType.F32, keys=("layer.weight",))
WHY = Why("same name", "same name")
CALLS = [
    (TensorSpec, ("a.b", (2,), DType.F16), {}),
    (Slot, (), {"spec": SPEC}),
    (Slot, (), {"spec": SPEC, "aliases": ("x",), "order": 7, "is_buffer": True}),
    (Leaf, (), {"name": "a.b.weight", "shape": (4,), "dtype": DType.F32, "keys": ("k",), "turned": True}),
    (Match, (), {"target": LEAF, "source": LEAF, "why": WHY}),
    (Match, (), {"target": LEAF, "source": LEAF, "why": WHY, "certainty": Certainty.DOUBT}),
    (Feed, ("a",), {}),
    (Feed, ("a", (), "net"), {}),
    (Step, (), {"slot": Slot(spec=SPEC), "why": WHY}),
    (Step, (), {"slot": Slot(spec=SPEC), "why": WHY, "feeds": (Feed("a"),), "quiet": True}),
]


@pytest.mark.parametrize(("kind", "positional", "named"), CALLS)
def test_it_is_what_the_class_makes(kind, positional, named):
    make = maker(kind)
    assert make is not kind
    made, usual = make(*positional, **named), kind(*positional, **named)
    assert type(made) is kind
    assert made == usual
    assert (repr(made), hash(made)) == (repr(usual), hash(usual))
    assert pickle.loads(pickle.dumps(made)) == usual  # made here
    assert replace(made) == usual
    with pytest.raises(FrozenInstanceError):
        setattr(made, type(made).__slots__[0], None)


@given(st.text(max_size=20), st.lists(st.integers(0, 9)).map(tuple))
def test_any_values_end_in_their_fields(name, shape):
    made = maker(TensorSpec)(name, shape, DType.F32)
    assert (made.name, made.shape, made.dtype) == (name, shape, DType.F32)


@pytest.mark.parametrize("kind", [TensorSpec, Slot, Leaf, Step])
def test_what_is_missing_or_unknown_is_refused(kind):
    with pytest.raises(TypeError):
        maker(kind)()
    with pytest.raises(TypeError):
        maker(kind)(nothing_of_the_kind=1)


def test_a_class_of_another_make_stays_as_it_is():
    @dataclass(frozen=True)
    class Loose:
        value: int = 1

    @dataclass(frozen=True, slots=True)
    class Grown:
        values: list[int] = field(default_factory=list)

    assert maker(Loose) is Loose
    assert maker(Grown) is Grown


def test_arguments_by_name_alone_stay_so_wherever_their_fields_stand():
    @dataclass(frozen=True, slots=True)
    class Mixed:
        new: int = field(kw_only=True)
        self_: int
        made: int = field(default=3, kw_only=True)
        size: int = field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "size", self.self_ + self.made)

    make = maker(Mixed)
    assert make is not Mixed
    assert make(4, new=1) == Mixed(4, new=1)
    assert make(4, made=2, new=1).size == 6
    with pytest.raises(TypeError):
        make(4, 1)


def test_what_a_class_checks_is_checked():
    @dataclass(frozen=True, slots=True)
    class Checked:
        value: int

        def __post_init__(self):
            if self.value < 0:
                raise ValueError(f"{self.value} is negative")

    assert maker(Checked)(3) == Checked(3)
    with pytest.raises(ValueError, match="-3 is negative"):
        maker(Checked)(-3)
