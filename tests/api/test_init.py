"""Added layers that change nothing at first: the grown model starts at the old model's output."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg


def outputs_agree(model, old, x, tolerance=1e-6):
    """Whether both models, in evaluation, put out the same."""
    model.eval()
    old.eval()
    with torch.no_grad():
        return torch.allclose(model(x), old(x), rtol=0, atol=tolerance)


def moved(model):
    """The model with statistics and norms that are not at their start."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def plain(*extra):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *extra, nn.Flatten(), nn.Linear(32, 5)
    )


ADDED = {
    "convolution": lambda: [nn.Conv2d(8, 8, 3, padding=1)],
    "wide": lambda: [nn.Conv2d(8, 8, (1, 5), padding="same", dilation=2)],
    "depthwise": lambda: [nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)],
    "grouped": lambda: [nn.Conv2d(8, 8, 1, groups=4)],
    "turned": lambda: [nn.ConvTranspose2d(8, 8, 3, padding=1)],
    "with norm": lambda: [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()],
    "prelu": lambda: [nn.Conv2d(8, 8, 1), nn.PReLU(8)],
}


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_longer_sequence_starts_at_the_old_output(added, device):
    torch.manual_seed(0)
    old = moved(plain())
    extra = ADDED[added]()
    with torch.device(device):
        model = plain(*ADDED[added]())
    parts = [f"{3 + at}" for at, layer in enumerate(extra) if list(layer.parameters())]
    report = tg.load(model, old.state_dict(), init=dict.fromkeys(parts, "identity"), device="cpu")
    assert outputs_agree(model, old, torch.randn(4, 3, 2, 2))
    assert not report.plan.fresh
    assert all(
        report.plan.by_name[f"{part}.weight"].why.text == "starts as the identity, as you said" for part in parts
    )


class Residual(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            )
            for _ in range(depth)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize("kind", ["zero", "zero-gamma"])
def test_added_residual_blocks_start_at_the_old_output_and_learn(kind):
    torch.manual_seed(0)
    old, model = moved(Residual(2)), Residual(4)
    starts = {"blocks.2.4": kind, "blocks.3.4": kind}
    report = tg.load(model, old.state_dict(), init=starts)
    assert outputs_agree(model, old, torch.randn(2, 3, 5, 5), 0)
    assert {s.slot.owner for s in report.plan.fresh} == {f"blocks.{n}.{m}" for n in (2, 3) for m in (0, 1, 3)}
    assert torch.equal(model.blocks[2][4].running_var, torch.full((4,), 1 - 1e-5))
    model.train()
    model(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert model.blocks[3][4].weight.grad.abs().sum() > 0


class Transformer(nn.Module):
    def __init__(self, depth):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x)


def test_a_deeper_transformer_with_zero_projections_starts_at_the_old_output():
    torch.manual_seed(0)
    old, model = Transformer(1), Transformer(3)
    starts = {f"encoder.layers.{n}.{part}": "zero" for n in (1, 2) for part in ("self_attn.out_proj", "linear2")}
    tg.load(model, old.state_dict(), init=starts)
    assert outputs_agree(model, old, torch.randn(2, 5, 8))


def test_freezing_and_groups_see_a_start_as_new():
    old, model = plain(), plain(nn.Conv2d(8, 8, 1))
    report = tg.load(model, old.state_dict(), init={"3": "identity"})
    assert "3.weight" not in tg.freeze(model, report).names
    tg.freeze(model, report).undo()
    groups = {g["name"]: g["names"] for g in tg.param_groups(model, report, lr=1, fresh_lr=2)}
    assert groups["fresh"] == ["3.weight", "3.bias"]


@pytest.mark.parametrize("norm", [nn.LayerNorm(32), nn.GroupNorm(4, 32), nn.RMSNorm(32)], ids=repr)
def test_no_norm_is_called_the_identity_that_normalises(norm):
    old, model = plain(), plain()
    model.insert(4, norm)
    step = tg.load(model, old.state_dict(), init={"4": "identity"}).plan.by_name["4.weight"]
    assert step.why.text == "starts at ones and zeros, as you said, and still normalises"
    assert (norm.weight == 1).all()


def test_the_first_pattern_decides():
    old, model = plain(), plain(nn.Conv2d(8, 8, 1))
    tg.load(model, old.state_dict(), init={"3.bias": "zero", "3": "identity"})
    assert not model[3].bias.any()
    tg.load(model, old.state_dict(), init={"3.weight": "zero", "3.*": "identity"})
    assert not model[3].weight.any()


@pytest.mark.parametrize(
    ("extra", "starts", "text"),
    [
        ([nn.Linear(32, 32)], {"3": "unit"}, "use one of 'identity', 'zero', 'zero-gamma'"),
        ([nn.Linear(32, 32)], {"nothing": "zero"}, "init: no tensor of the model is called 'nothing'"),
        ([nn.Linear(32, 32)], {"3": "zero-gamma"}, "nothing that can start so"),
        ([nn.Conv2d(8, 16, 1)], {"3": "identity"}, r"3.weight \[16, 8, 1, 1\] of Conv2d .* as many outputs as inputs"),
        ([nn.Conv2d(8, 8, 2)], {"3": "identity"}, "odd kernel"),
        ([nn.Conv2d(8, 8, 3)], {"3": "identity"}, "padding that keeps the size"),
        ([nn.Conv2d(8, 8, 1, stride=2)], {"3": "identity"}, "stride 1"),
        ([nn.Embedding(8, 8)], {"3": "identity"}, "'zero' in the last layer"),
        ([nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))], {"3": "identity"}, "can't start as the identity"),
    ],
)
def test_what_can_not_start_so_is_refused_with_the_reason(extra, starts, text):
    with pytest.raises(tg.UsageError, match=text):
        tg.plan(plain(*extra), plain().state_dict(), init=starts)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(st.lists(st.integers(2, 6), min_size=1, max_size=4), st.data())
def test_any_sequence_grown_by_identities_starts_at_the_old_output(widths, data):
    sizes = [3, *widths]
    old = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, widths, strict=False)))
    layers, starts = [], {}
    for layer in old:
        layers.append(nn.Linear(layer.in_features, layer.out_features))
        for _ in range(data.draw(st.integers(0, 2))):
            starts[str(len(layers))] = "identity"
            layers.append(nn.Linear(layer.out_features, layer.out_features))
    model = nn.Sequential(*layers)
    assume(not tg.plan(model, old.state_dict(), init=starts).doubtful)  # four layers of one size, and names that shift
    tg.load(model, old.state_dict(), init=starts)
    assert outputs_agree(model, old, torch.randn(5, 3))
