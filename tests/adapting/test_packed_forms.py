"""Weights that a file holds scaled, packed, masked or normalised arrive as the numbers that they stand for."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import torchgraft as tg


def spread(scale, weight):
    """Return one scale for each element: the slow way of what block-wise scaling means."""
    if scale.numel() == 1:
        return scale.reshape(()).expand(weight.shape)
    scale = scale.reshape(*scale.shape, *(1,) * (weight.dim() - scale.dim()))
    blocks = [
        {1: size, 2: 128, 3: 128, 4: 75, 300: 1}[count] for size, count in zip(weight.shape, scale.shape, strict=True)
    ]
    for dim, block in enumerate(blocks):
        scale = scale.repeat_interleave(block, dim).narrow(dim, 0, weight.shape[dim])
    return scale


@pytest.mark.parametrize("suffix", ["weight_scale_inv", "weight_scale"])
@pytest.mark.parametrize("counts", [(), (1,), (1, 1), (300,), (300, 1), (3, 2), (1, 2), (4, 1)])
def test_8_bit_floats_are_multiplied_by_their_scales(counts, suffix):
    weight = torch.randn(300, 256).to(torch.float8_e4m3fn)
    scale = torch.rand(counts) + 0.5
    model = nn.Linear(256, 300, bias=False)
    tg.load(model, {"weight": weight, suffix: scale})
    assert torch.equal(model.weight, weight.float() * spread(scale, weight))


@pytest.mark.parametrize("counts", [(7, 2), (3, 1), (3,), (3, 2, 1)])
def test_scales_of_unknown_blocks_are_refused(counts):
    """Of 300 rows, 3 blocks are of 100, or of 128 with the last one cut short; 7 are of neither an equal size nor a power."""
    file = {"fc.weight": torch.randn(300, 256).to(torch.float8_e4m3fn), "fc.weight_scale_inv": torch.ones(counts)}
    model = nn.ModuleDict({"fc": nn.Linear(256, 300, bias=False)})
    before = model["fc"].weight.detach().clone()
    with pytest.raises(tg.PlanRefusedError, match="leave the size of a block open"):
        tg.load(model, file)
    assert torch.equal(model["fc"].weight, before)


@pytest.mark.parametrize(
    ("scale", "more", "said"),
    [
        (torch.full((8, 2), 127, dtype=torch.uint8), {}, "kept as uint8"),  # exponents of MXFP8
        (torch.ones(3), {}, r"scales \[3\] leave"),  # one for each of three parts that were fused
        (torch.ones(4), {}, r"scales \[4\] leave"),  # one for each column
        (torch.ones(()), {"fc.weight_zero_point": torch.ones(())}, "weight_zero_point changes as well"),
    ],
)
def test_8_bit_floats_with_scales_of_another_kind_are_refused(scale, more, said):
    rows = 8 if scale.dim() != 1 else 12
    file = {"fc.weight": torch.randn(rows, 4).to(torch.float8_e4m3fn), "fc.weight_scale": scale} | more
    with pytest.raises(tg.PlanRefusedError, match=said):
        tg.load(nn.ModuleDict({"fc": nn.Linear(4, rows, bias=False)}), file)


def test_blocks_of_bytes_beside_their_scales_are_packed():
    """MXFP4 as gpt-oss has it: two values in a byte, one exponent for 32 of them."""
    file = {"a.bias": torch.ones(8), "up_blocks": torch.ones(2, 8, 1, 16, dtype=torch.uint8)}
    file["up_scales"] = torch.ones(2, 8, 1, dtype=torch.uint8)
    with pytest.raises(tg.PlanRefusedError, match="up_blocks: packed"):
        tg.load(nn.ModuleDict({"a": nn.Linear(8, 8)}), file)


def four_bits(shape, block):
    """Return a weight, and the same in the layout of bitsandbytes' QuantState."""
    numel = shape[0] * shape[1]
    codes, table = torch.randint(0, 16, (numel,)), torch.linspace(-1, 1, 16)
    absmax = torch.rand(-(-numel // block)) + 0.5
    weight = (table[codes] * absmax.repeat_interleave(block)[:numel]).reshape(shape)
    packed = (codes[::2] * 16 + codes[1::2]).to(torch.uint8).reshape(-1, 1)
    state = json.dumps({"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": list(shape)})
    return weight, {
        "fc.weight": packed,
        "fc.weight.absmax": absmax,
        "fc.weight.quant_map": table,
        "fc.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state.encode()), dtype=torch.uint8),
    }


@pytest.mark.parametrize(("shape", "block"), [((8, 16), 64), ((6, 10), 16)])
def test_4_bit_codes_are_unpacked(shape, block):
    weight, file = four_bits(shape, block)
    model = nn.ModuleDict({"fc": nn.Linear(*shape[::-1], bias=False)})
    tg.load(model, file)
    assert torch.equal(model["fc"].weight, weight)


@pytest.mark.parametrize("spoil", ["another size", "nested"])
def test_4_bit_codes_that_do_not_unpack_to_the_model_are_refused(spoil):
    _, file = four_bits((8, 16), 64)
    if spoil == "nested":
        file["fc.weight.nested_absmax"] = torch.ones(1)
    model = nn.ModuleDict({"fc": nn.Linear(16, 8 if spoil == "nested" else 10, bias=False)})
    with pytest.raises(tg.PlanRefusedError, match=r"4-bit packing .* don't unpack to"):
        tg.load(model, file)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm, parametrizations.weight_norm])
def test_a_norm_of_a_weight_is_computed_where_the_model_has_none(norm, deep):
    def placed(layer):
        return nn.Sequential(layer) if deep else layer

    made, model = placed(norm(nn.Linear(6, 4))), placed(nn.Linear(6, 4))
    for _ in range(5):
        made(torch.randn(2, 6))
    tg.load(model, made.state_dict())
    x = torch.randn(3, 6)
    assert torch.allclose(model(x), made.eval()(x), atol=1e-6)


def test_a_spectral_norm_without_its_right_vector_is_refused():
    state = spectral_norm(nn.Linear(6, 4)).state_dict()
    del state["weight_v"]
    with pytest.raises(tg.PlanRefusedError, match="without its right vector"):
        tg.load(nn.Linear(6, 4), state)


def test_a_pruning_mask_is_applied_where_the_model_has_none():
    made = nn.Linear(6, 4)
    prune.random_unstructured(made, "weight", amount=0.5)
    model = nn.Linear(6, 4)
    tg.load(model, made.state_dict())
    assert torch.equal(model.weight, made.weight)
    assert int((model.weight == 0).sum()) == 12


@pytest.mark.parametrize("dims", [(1, 0), (0, 1), (None, 0), (1, None)])
def test_weight_norm_over_other_dimensions_is_computed(dims):
    made, model = (nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6), dim=dim)) for dim in dims)
    with torch.no_grad():
        made[0].parametrizations.weight.original0.uniform_(0.5, 2)
    tg.load(model, made.state_dict())
    x = torch.randn(3, 6)
    assert torch.allclose(model(x), made(x), atol=1e-6)


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(4, 4, 3), nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(4, 4, 3)])
def test_a_spectral_norm_is_that_of_the_matrix_whose_rows_are_the_outputs(norm, layer):
    """Square kernels of transposed convolutions don't show that these come second."""
    torch.manual_seed(0)
    old = norm(copy.deepcopy(layer)).eval()
    old(torch.randn(1, 4, 5, 5))
    model = copy.deepcopy(layer)
    tg.load(nn.ModuleDict({"up": model}), nn.ModuleDict({"up": old}).state_dict())
    torch.testing.assert_close(model.weight, old.weight)


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
def test_a_spectral_norm_over_the_other_dimension_of_a_square_matrix_is_refused(norm):
    made = norm(nn.Linear(5, 5), dim=1)
    for _ in range(9):
        made(torch.randn(2, 5))
    with pytest.raises(tg.CheckpointError, match="fit its other dimension better than 0"):
        tg.load(nn.Linear(5, 5), made.state_dict())


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(()))

    def forward(self, weight):
        return weight + self.shift


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_a_weight_that_another_parametrization_changes_again_is_refused(norm):
    made = norm(nn.Linear(6, 4))
    nn.utils.parametrize.register_parametrization(made, "weight", Shifted())
    model = nn.Linear(6, 4)
    before = model.weight.detach().clone()
    with pytest.raises(tg.PlanRefusedError):
        tg.load(model, made.state_dict())
    assert torch.equal(model.weight, before)


def test_two_originals_of_one_size_are_no_magnitude_and_direction():
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4)})
    file = {f"a.parametrizations.weight.original{part}": torch.randn(4, 4) for part in (0, 1)}
    file |= {f"b.{name}": value for name, value in nn.Linear(4, 4).state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match=r"a\.weight <- .* is in doubt"):
        tg.load(model, file)


@pytest.mark.parametrize("bits", [4, 8])
def test_scaled_weights_that_hold_several_of_the_models_are_refused(bits):
    """The parts would stay fresh, and their biases not."""
    names = ("q_proj", "k_proj", "v_proj")
    model = nn.ModuleDict({"attn": nn.ModuleDict({name: nn.Linear(8, 8) for name in (*names, "out_proj")})})
    file = {"fc.weight": torch.randn(24, 8).to(torch.float8_e4m3fn), "fc.weight_scale": torch.ones(24, 1)}
    file = {
        key.replace("fc.", "attn.qkv."): value
        for key, value in (file if bits == 8 else four_bits((24, 8), 64)[1]).items()
    }
    file |= {"attn.qkv.bias": torch.randn(24), "attn.proj.weight": torch.randn(8, 8), "attn.proj.bias": torch.randn(8)}
    with pytest.raises(tg.PlanRefusedError, match=r"qkv\.weight: scaled numbers, as many as"):
        tg.load(model, file)
