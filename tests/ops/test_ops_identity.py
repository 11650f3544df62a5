from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_contract import OpContract, spec
from torch import nn

from torchgraft.core.errors import UsageError
from torchgraft.ops import Identity


class TestIdentity(OpContract):
    kind = Identity
    good: ClassVar[list] = [
        (Identity((3, 3), "float32"), []),
        (Identity((4, 2, 3, 5), "bfloat16", 2), []),
        (Identity((6, 1, 7), "float64", 6), []),
        (Identity((2, 2, 1, 3, 3), "int64"), []),
    ]
    bad: ClassVar[list] = [(Identity((2, 2), "float32"), [spec(2, 2)])]

    @given(st.integers(1, 4), st.integers(1, 4), st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=3))
    def test_is_what_torch_calls_dirac(self, groups, inner, kernel):
        shape = (groups * inner, inner, *kernel)
        wanted = nn.init.dirac_(torch.empty(shape), groups=groups)
        assert torch.equal(Identity(shape, "float32", groups).run([]), wanted)

    @pytest.mark.parametrize(
        ("shape", "groups", "text"),
        [
            ((3, 4), 1, "as many outputs"),
            ((4,), 1, "as many outputs"),
            ((4, 4, 2), 1, "no middle"),
            ((4, 4), 2, "2 group"),
        ],
    )
    def test_refuses_what_has_none(self, shape, groups, text):
        with pytest.raises(UsageError, match=text):
            Identity(shape, "float32", groups)
