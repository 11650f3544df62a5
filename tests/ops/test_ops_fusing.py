from typing import ClassVar

import pytest
import torch
from op_contract import OpContract, spec, value
from torch import nn

from torchgraft.core.errors import UsageError
from torchgraft.ops import FuseBranches, FuseNormBias, FuseNormWeight


def norm(channels, seed, *, affine=True):
    bn = nn.BatchNorm2d(channels, eps=1e-3, affine=affine).eval()
    for i, tensor in enumerate([*bn.parameters(), bn.running_mean, bn.running_var]):
        tensor.data = value(spec(channels), seed + i)
    return bn


def stats(bn):
    affine = [bn.weight.detach(), bn.bias.detach()] if bn.affine else []
    return [*affine, bn.running_mean, bn.running_var]


class TestFuseNormWeight(OpContract):
    kind = FuseNormWeight
    good: ClassVar[list] = [
        (FuseNormWeight(1e-5), [spec(4, 3, 3, 3), spec(4), spec(4)]),
        (FuseNormWeight(1e-5, 1), [spec(3, 4, 3, dtype="float16"), spec(4), spec(4)]),
        (FuseNormWeight(1e-5), [spec(4, 3), spec(4)]),
    ]
    bad: ClassVar[list] = [(FuseNormWeight(1e-5), [spec(4, 3), spec(3), spec(3)]), (FuseNormWeight(1e-5), [spec(4, 3)])]


class TestFuseNormBias(OpContract):
    kind = FuseNormBias
    good: ClassVar[list] = [(FuseNormBias(1e-5), [spec(4, name=f"b{i}")] * n) for i, n in enumerate((2, 3, 4, 5))]
    bad: ClassVar[list] = [
        (FuseNormBias(1e-5), [spec(4), spec(3)]),
        (FuseNormBias(1e-5), [spec(4)]),
        (FuseNormBias(1e-5), [spec(4, 1), spec(4, 1)]),
    ]

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("transposed", [True, False])
    def test_conv_and_norm_become_one_conv(self, bias, affine, transposed):
        conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(3, 4, 3, bias=bias)
        bn, x = norm(4, 1, affine=affine), torch.rand(2, 3, 6, 6)
        want = bn(conv(x)).detach()
        gain = [bn.weight.detach()] if affine else []
        weight = FuseNormWeight(1e-3, 1 if transposed else 0).run([conv.weight.detach(), *gain, bn.running_var])
        shift = FuseNormBias(1e-3).run([*([conv.bias.detach()] if bias else []), *stats(bn)])
        fn = nn.functional.conv_transpose2d if transposed else nn.functional.conv2d
        torch.testing.assert_close(fn(x, weight, shift), want, rtol=1e-4, atol=1e-5)

    def test_agrees_with_torch_fusion(self):
        conv, bn = nn.Conv2d(3, 4, 3), norm(4, 1)
        fused = nn.utils.fuse_conv_bn_eval(conv.eval(), bn)
        weight = FuseNormWeight(1e-3).run([conv.weight.detach(), bn.weight.detach(), bn.running_var])
        torch.testing.assert_close(weight, fused.weight.detach())
        torch.testing.assert_close(FuseNormBias(1e-3).run([conv.bias.detach(), *stats(bn)]), fused.bias.detach())


REPVGG = ("conv+norm", "conv+norm", "norm")


def repvgg(kernel, part, groups=1):
    return FuseBranches(kernel=(kernel, kernel), branches=REPVGG, part=part, eps=1e-3, groups=groups)


class TestFuseBranches(OpContract):
    kind = FuseBranches
    good: ClassVar[list] = [
        (op, [spec(4, 4 // g, 3, 3), *[spec(4)] * 4, spec(4, 4 // g, 1, 1), *[spec(4)] * 8])
        for g in (1, 2)
        for op in (repvgg(3, "weight", g), repvgg(5, "bias", g))
    ] + [
        (FuseBranches(kernel=(3,), branches=("norm",), part="weight", eps=0.1, groups=2), [spec(4, dtype="float16")] * 4),
        (FuseBranches(kernel=(3,), branches=("conv", "conv+bias"), part="bias", eps=0.1), [spec(4, 3, 3), spec(4, 3, 1), spec(4)]),
    ]  # fmt: skip
    bad: ClassVar[list] = [
        (repvgg(3, "weight"), [spec(4, 4, 3, 3), *[spec(4)] * 4, spec(4, 4, 5, 5), *[spec(4)] * 8]),
        (repvgg(3, "weight"), [spec(4, 3, 3, 3), *[spec(4)] * 4, spec(4, 3, 1, 1), *[spec(4)] * 8]),
        (repvgg(3, "weight"), [spec(4, 4, 3, 3), *[spec(4)] * 4, spec(4, 4, 1, 1), *[spec(3)] * 8]),
        (repvgg(3, "weight"), [spec(4, 4, 3, 3)]),
        (FuseBranches(kernel=(3,), branches=("conv",), part="weight", eps=0.1), [spec(4)]),
    ]

    @pytest.mark.parametrize("groups", [1, 2])
    def test_training_branches_become_one_conv(self, groups):
        dense, one = nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=False), nn.Conv2d(4, 4, 1, groups=groups)
        norms, x = [norm(4, s) for s in (1, 5, 9)], torch.rand(2, 4, 6, 6)
        want = (norms[0](dense(x)) + norms[1](one(x)) + norms[2](x)).detach()
        inputs = [
            dense.weight.detach(),
            *stats(norms[0]),
            one.weight.detach(),
            one.bias.detach(),
            *stats(norms[1]),
            *stats(norms[2]),
        ]
        kinds = ("conv+norm", "conv+bias+norm", "norm")
        weight, bias = (
            FuseBranches(kernel=(3, 3), branches=kinds, part=part, eps=1e-3, groups=groups).run(inputs)
            for part in ("weight", "bias")
        )
        got = nn.functional.conv2d(x, weight, bias, padding=1, groups=groups)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "fields", [{"branches": ()}, {"branches": ("pool",)}, {"part": "gain"}, {"kernel": (2, 2)}, {"kernel": ()}]
    )
    def test_refuses_what_makes_no_sense(self, fields):
        with pytest.raises(UsageError):
            FuseBranches(**({"kernel": (3, 3), "branches": REPVGG, "part": "weight", "eps": 1e-5} | fields))
