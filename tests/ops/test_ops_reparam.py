from typing import ClassVar

import pytest
import torch
from op_contract import OpContract, same_bits, spec, value
from torch import nn
from torch.nn.utils import prune

from torchgraft.core.errors import UsageError
from torchgraft.ops import ApplyMask, Offset, SpectralNormBake, WeightNormBake, WeightNormSplit

MODULES = [
    (nn.Linear(4, 3), 0),
    (nn.Linear(4, 3), 1),
    (nn.Linear(4, 3), None),
    (nn.Conv1d(3, 4, 5), 0),
    (nn.Conv1d(3, 4, 5), 2),
    (nn.Conv2d(3, 4, 3), 0),
    (nn.ConvTranspose1d(3, 4, 5), 0),
    (nn.ConvTranspose2d(3, 4, 3), 1),
]


class TestWeightNormBake(OpContract):
    kind = WeightNormBake
    good: ClassVar[list] = [
        (WeightNormBake(0), [spec(4, 1, 1), spec(4, 3, 5)]),
        (WeightNormBake(2), [spec(1, 1, 5), spec(4, 3, 5, dtype="float16")]),
        (WeightNormBake(0), [spec(4), spec(4, dtype="float64")]),
        (WeightNormBake(None), [spec(), spec(4, 3)]),
        (WeightNormBake(0), [spec(4, name="w_g"), spec(4, 3)]),
    ]
    bad: ClassVar[list] = [
        (WeightNormBake(0), [spec(3, 1), spec(4, 3)]),
        (WeightNormBake(None), [spec(4, 1), spec(4, 3)]),
        (WeightNormBake(0), [spec(4, 1)]),
        (WeightNormBake(0), [spec(1, dtype="int8"), spec(1, 3)]),
    ]

    @pytest.mark.parametrize(("module", "dim"), MODULES)
    def test_agrees_with_torch(self, module, dim):
        module.weight.data = value(spec(*module.weight.shape)) - 1
        new = nn.utils.parametrizations.weight_norm(module, dim=dim)
        g, v = new.parametrizations.weight.original0, new.parametrizations.weight.original1
        g.data, v.data = value(spec(*g.shape), 1), value(spec(*v.shape), 2) - 1
        torch.testing.assert_close(WeightNormBake(dim).run([g.detach(), v.detach()]), new.weight.detach())
        nn.utils.parametrize.remove_parametrizations(new, "weight")

    def test_agrees_with_the_older_weight_norm(self):
        with pytest.warns(FutureWarning):
            old = nn.utils.weight_norm(nn.Conv1d(3, 4, 5), dim=1)
        old.weight_g.data *= 1.7
        old(torch.rand(1, 3, 9))
        torch.testing.assert_close(WeightNormBake(1).run([old.weight_g.data, old.weight_v.data]), old.weight.detach())


class TestWeightNormSplit(OpContract):
    kind = WeightNormSplit
    good: ClassVar[list] = [
        (WeightNormSplit("g", 0), [spec(4, 3, 5)]),
        (WeightNormSplit("g", None), [spec(4, 3, dtype="bfloat16")]),
        (WeightNormSplit("v", 1), [spec(4, 3)]),
        (WeightNormSplit("g", 0), [spec(4)]),
    ]
    bad: ClassVar[list] = [(WeightNormSplit("g", 2), [spec(4, 3)]), (WeightNormSplit("g", 0), [spec(4, dtype="int8")])]

    @pytest.mark.parametrize(("module", "dim"), MODULES)
    def test_agrees_with_torch_and_joins_again(self, module, dim):
        weight = module.weight.detach().clone()
        new = nn.utils.parametrizations.weight_norm(module, dim=dim)
        g, v = (WeightNormSplit(part, dim).run([weight]) for part in "gv")
        torch.testing.assert_close(g, new.parametrizations.weight.original0.detach())
        assert same_bits(v, new.parametrizations.weight.original1.detach())
        torch.testing.assert_close(WeightNormBake(dim).run([g, v]), weight)
        nn.utils.parametrize.remove_parametrizations(new, "weight")

    def test_refuses_another_part(self):
        with pytest.raises(UsageError):
            WeightNormSplit("w", 0)


class TestSpectralNormBake(OpContract):
    kind = SpectralNormBake
    good: ClassVar[list] = [
        (SpectralNormBake(), [spec(4, 3, 2), spec(4), spec(6)]),
        (SpectralNormBake(1), [spec(4, 3, 2, dtype="float16"), spec(3), spec(8)]),
    ]
    bad: ClassVar[list] = [
        (SpectralNormBake(), [spec(4, 3), spec(3), spec(4)]),
        (SpectralNormBake(), [spec(4, 3), spec(4)]),
    ]

    @pytest.mark.parametrize(
        ("module", "dim"), [(nn.Linear(4, 3), 0), (nn.Conv2d(3, 4, 3), 0), (nn.ConvTranspose2d(3, 4, 3), 1)]
    )
    def test_agrees_with_torch(self, module, dim):
        new = nn.utils.parametrizations.spectral_norm(module).eval()
        norm = new.parametrizations.weight[0]
        got = SpectralNormBake(dim).run([new.parametrizations.weight.original.detach(), norm._u, norm._v])
        torch.testing.assert_close(got, new.weight.detach())
        nn.utils.parametrize.remove_parametrizations(new, "weight")

    def test_agrees_with_the_older_spectral_norm(self):
        old = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)).eval()
        old(torch.rand(1, 3, 5, 5))
        got = SpectralNormBake().run([old.weight_orig.data, old.weight_u, old.weight_v])
        torch.testing.assert_close(got, old.weight.detach())


class TestApplyMask(OpContract):
    kind = ApplyMask
    good: ClassVar[list] = [
        (ApplyMask(), [spec(4, 3), spec(4, 3)]),
        (ApplyMask(), [spec(4, 3, dtype="float16"), spec(4, 3, dtype="bool")]),
    ]
    bad: ClassVar[list] = [(ApplyMask(), [spec(4, 3), spec(4)]), (ApplyMask(), [spec(4, 3)])]

    def test_agrees_with_torch_pruning(self):
        module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 5)
        got = ApplyMask().run([module.weight_orig.detach(), module.weight_mask])
        assert same_bits(got, module.weight.detach())


class TestOffset(OpContract):
    kind = Offset
    good: ClassVar[list] = [
        (Offset(-1.0), [spec(4)]),
        (Offset(0.5), [spec(4, 3, dtype="float16")]),
        (Offset(1.0), [spec(dtype="float64")]),
    ]
    bad: ClassVar[list] = [(Offset(1.0), [spec(3), spec(3)]), (Offset(1.0), [spec(3, dtype="int64")])]

    def test_takes_off_what_was_added(self):
        given = value(spec(5, dtype="bfloat16"))
        assert same_bits(Offset(-1.0).run([Offset(1.0).run([given.float()])]).bfloat16(), given)
