from typing import ClassVar

import peft
import pytest
import torch
from op_contract import OpContract, spec, value
from torch import nn

from torchgraft.ops import DoraMerge, LohaMerge, LoraMerge, Transpose

FACTORS = [spec(6, 5), spec(6, 2), spec(2, 5)]
CONV = [spec(6, 5, 3, 3), spec(6, 2, 1, 1), spec(2, 5, 3, 3)]
WRONG = [
    [spec(6, 5), spec(6, 2), spec(3, 5)],
    [spec(6, 5), spec(5, 2), spec(2, 6)],
    [spec(6, 5), spec(6, 2)],
]


class TestLoraMerge(OpContract):
    kind = LoraMerge
    good: ClassVar[list] = [
        (LoraMerge(), FACTORS),
        (LoraMerge(0.5), [*CONV, spec()]),
        (LoraMerge(), [spec(6, 5, dtype="float16"), spec(6, 2, dtype="bfloat16"), spec(2, 5), spec(1, dtype="int64")]),
    ]
    bad: ClassVar[list] = [
        *((LoraMerge(), w) for w in WRONG),
        (LoraMerge(), [*FACTORS, spec(2)]),
        (LoraMerge(), [spec(), spec(1), spec(1)]),
    ]

    @pytest.mark.parametrize("kind", ["dora", "lora"])
    @pytest.mark.parametrize(
        "make",
        [lambda: nn.Linear(5, 6), lambda: nn.Conv2d(3, 6, 3), lambda: nn.Conv2d(4, 6, 1)],
        ids=["linear", "conv", "1x1"],
    )
    def test_agrees_with_peft(self, make, kind):
        base = nn.Sequential(make())
        config = peft.LoraConfig(r=2, lora_alpha=7, target_modules=["0"], use_dora=kind == "dora")
        model = peft.get_peft_model(base, config)
        layer = model.base_model.model[0]
        layer.lora_B["default"].weight.data.normal_(generator=torch.Generator().manual_seed(1))
        inputs = [
            t.detach().clone()
            for t in (layer.base_layer.weight, layer.lora_B["default"].weight, layer.lora_A["default"].weight)
        ]
        op = LoraMerge(3.5)
        if kind == "dora":
            magnitude = layer.lora_magnitude_vector["default"].weight
            magnitude.data *= 1.3
            inputs.append(magnitude.detach())
            op = DoraMerge(3.5)
        want = model.merge_and_unload()[0].weight.detach()
        torch.testing.assert_close(op.run(inputs), want, rtol=1e-4, atol=1e-5)

    def test_agrees_with_peft_on_embeddings_by_turning_the_factors(self):
        model = peft.get_peft_model(
            nn.Sequential(nn.Embedding(6, 5)), peft.LoraConfig(r=2, lora_alpha=2, target_modules=["0"])
        )
        layer = model.base_model.model[0]
        layer.lora_embedding_A["default"].data.normal_(generator=torch.Generator().manual_seed(1))
        base, a, b = (
            t.detach().clone()
            for t in (layer.base_layer.weight, layer.lora_embedding_A["default"], layer.lora_embedding_B["default"])
        )
        want = model.merge_and_unload()[0].weight.detach()
        torch.testing.assert_close(LoraMerge().run([base, Transpose().run([a]), Transpose().run([b])]), want)

    def test_alpha_is_divided_by_the_rank(self):
        base, up, down = (value(s, i) for i, s in enumerate(CONV))
        want = base + 3 / 2 * torch.einsum("or,rihw->oihw", up.flatten(1), down)
        torch.testing.assert_close(LoraMerge().run([base, up, down, torch.tensor(3.0)]), want)


class TestDoraMerge(OpContract):
    kind = DoraMerge
    good: ClassVar[list] = [
        (DoraMerge(), [*FACTORS, spec(6)]),
        (DoraMerge(2), [*CONV, spec(1, 6, 1, 1), spec()]),
        (DoraMerge(2, 1), [*CONV, spec(1, CONV[0].shape[1], 1, 1)]),
    ]
    bad: ClassVar[list] = [
        (DoraMerge(), FACTORS),
        (DoraMerge(1, 1), [*FACTORS, spec(6)]),
        (DoraMerge(), [*FACTORS, spec(5)]),
        (DoraMerge(), [*FACTORS, spec(6), spec(2)]),
    ]


class TestLohaMerge(OpContract):
    kind = LohaMerge
    good: ClassVar[list] = [
        (LohaMerge(), [*FACTORS, *FACTORS[1:]]),
        (LohaMerge(0.5), [spec(6, 5, 3, 3, dtype="float16"), spec(6, 2), spec(2, 45), spec(6, 2), spec(2, 45), spec()]),
    ]
    bad: ClassVar[list] = [(LohaMerge(), [*FACTORS, spec(6, 2), spec(3, 5)]), (LohaMerge(), FACTORS)]

    @pytest.mark.parametrize("make", [lambda: nn.Linear(5, 6), lambda: nn.Conv2d(3, 6, 3)], ids=["linear", "conv"])
    def test_agrees_with_peft(self, make):
        config = peft.LoHaConfig(r=2, alpha=6, target_modules=["0"], init_weights=False)
        model = peft.get_peft_model(nn.Sequential(make()), config)
        layer = model.base_model.model[0]
        factors = [getattr(layer, f"hada_{n}")["default"].detach().clone() for n in ("w1_a", "w1_b", "w2_a", "w2_b")]
        inputs = [layer.base_layer.weight.detach().clone(), *factors, torch.tensor(6.0)]
        want = model.merge_and_unload()[0].weight.detach()
        torch.testing.assert_close(LohaMerge().run(inputs), want, rtol=1e-4, atol=1e-5)
