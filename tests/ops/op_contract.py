"""What every op must keep to. A test class per op inherits this and gives inputs that fit and inputs that don't."""

import contextlib
import json
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchgraft import ops
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.ops.runs import Run

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3),
    lambda s: st.lists(s, max_size=4),
)


def spec(*shape, dtype="float32", name="w"):
    return TensorSpec(name, shape, DType.of(dtype))


def value(s, seed=0):
    dtype = getattr(torch, s.dtype.label)
    g = torch.Generator().manual_seed(seed)
    if not s.dtype.is_float:
        return torch.randint(0, 2 if dtype is torch.bool else 100, s.shape, generator=g).to(dtype)
    return (torch.rand(s.shape, generator=g) + 0.5).to(dtype)


def values(specs):
    return [value(s, i) for i, s in enumerate(specs)]


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(-1), b.contiguous().view(-1))


class OpContract:
    """`good`: (op, specs) that fit. `bad`: (op, specs) that don't; the error must show the first shape."""

    kind: ClassVar[type]
    good: ClassVar[list] = []
    bad: ClassVar[list] = []

    def inputs(self, op, specs):
        return values(specs)

    def test_runs_to_the_promised_spec_and_leaves_inputs_alone(self):
        for op, specs in self.good:
            given = self.inputs(op, specs)
            before = [v.clone() for v in given]
            out, promised = op.run(given), op.out_spec(specs)
            assert tuple(out.shape) == promised.shape, op
            assert str(out.dtype) == f"torch.{promised.dtype}", op
            assert promised.name == (specs[0].name if specs else "")
            assert all(same_bits(a.float(), b.float()) for a, b in zip(given, before, strict=True))

    def test_what_the_caller_has_set_changes_no_bit(self):
        for op, specs in self.good:
            given = self.inputs(op, specs)
            (plain,) = ops.run_ops([op], given)
            torch.set_default_dtype(torch.float16)
            try:
                with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
                    (again,) = ops.run_ops([op], given)
            finally:
                torch.set_default_dtype(torch.float32)
            assert same_bits(plain, again), op

    def test_comes_back_from_plain_data(self):
        for op, _ in self.good:
            again = ops.from_dict(json.loads(json.dumps(op.to_dict())))
            assert again == op
            assert hash(again) == hash(op)
            assert type(op) is self.kind

    def test_runs_of_elements_are_the_result(self):
        for op, specs in self.good:
            runs = op.runs(specs, [[Run(number, 0, s.numel)] for number, s in enumerate(specs)])
            if runs is None:
                continue
            given = [v.reshape(-1) for v in self.inputs(op, specs)]
            moved = [given[run.source][run.start : run.start + run.size] for run in runs]
            result = op.run(self.inputs(op, specs)).reshape(-1)
            assert same_bits(torch.cat(moved) if moved else result[:0], result), op

    def test_takes_what_it_says_of_its_input_and_nothing_else(self):
        for op, specs in self.good:
            if not op.picks:
                continue
            given = self.inputs(op, specs)[0]
            taken = torch.ones(given.shape, dtype=torch.bool)
            for dim, indices in op.picks:
                along = torch.zeros(given.shape[dim], dtype=torch.bool)
                along[list(indices)] = True
                taken &= along.view(-1, *[1] * (given.dim() - dim - 1))
            numbers = torch.arange(given.numel()).view(given.shape)
            assert set(op.run([numbers]).flatten().tolist()) == set(numbers[taken].tolist()), op

    def test_inverse_undoes_it(self):
        for op, specs in self.good:
            given = self.inputs(op, specs)
            try:
                backs = op.inverse(specs)
            except UsageError:
                assert not op.lossless
                continue
            out, promised = op.run(given), op.out_spec(specs)
            assert len(backs) == len(specs)
            for back, v, s in zip(backs, given, specs, strict=True):
                assert same_bits(back.run([out]), v)
                assert back.out_spec([promised]).shape == s.shape

    def test_moves_elements_of_every_type(self):
        for op, specs in self.good if self.kind.lossless else ():
            for dtype in ("bool", "int8", "uint16", "bfloat16", "complex64", "float8_e4m3fn"):
                other = [spec(*s.shape, dtype=dtype) for s in specs]
                with contextlib.suppress(UsageError):
                    promised = op.out_spec(other)
                    given = [torch.ones(s.shape).to(getattr(torch, dtype)) for s in other]
                    out = op.run(given)
                    assert str(out.dtype) == f"torch.{promised.dtype}"
                    assert tuple(out.shape) == promised.shape

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.data())
    def test_refuses_foreign_fields_and_shapes_in_words_of_its_own(self, data):
        op, specs = data.draw(st.sampled_from(self.good))
        plain = op.to_dict()
        if len(plain) > 1 and data.draw(st.booleans()):
            plain[data.draw(st.sampled_from(sorted(set(plain) - {"op"})))] = data.draw(anything)
        if data.draw(st.booleans()):
            specs = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=5).map(lambda s: spec(*s)), max_size=6))
        with contextlib.suppress(UsageError):
            out = ops.from_dict(plain).out_spec(specs)
            assert all(n >= 0 for n in out.shape)

    def test_refuses_what_does_not_fit(self):
        for op, specs in self.bad:
            with pytest.raises(UsageError) as error:
                op.out_spec(specs)
            text = str(error.value)
            assert (str(list(specs[0].shape)) if specs else "no inputs") in text
            assert op.name in text

    def test_says_what_it_does_in_a_few_words(self):
        for op, _ in self.good:
            words = op.describe()
            assert 0 < len(words) <= 90
            assert words.isprintable()

    def test_cases_are_given(self):
        assert self.good
        assert self.bad
