"""What differs at the operation where two runs part is named, with both sides, where no weight and no setting explains it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchgraft as tg


class Made(nn.Module):
    """Two layers, and a function of what they give."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.first(x), self.second(x))


def found(source, target, inputs=None):
    made, model = Made(source), Made(target)
    report = tg.load(model, made)
    return tg.verify(model, made, torch.randn(2, 3, 4) if inputs is None else inputs, plan=report)


def weighted(base):
    def function(a, b):
        powers = base ** (-torch.arange(4) / 4)
        return a * torch.outer(torch.arange(3), powers).sin() + b

    return function


def normed_beside(a):
    return F.layer_norm(a, (4,), eps=1e-12) + a


CASES = {
    "inputs in another order": (
        lambda a, b: (a @ b.transpose(1, 2)).softmax(-1),
        lambda a, b: (b @ a.transpose(1, 2)).softmax(-1),
        "order",
        "takes its inputs in another order",
    ),
    "a padding that the source hasn't": (
        lambda a, b: F.avg_pool1d(a, 2) + F.avg_pool1d(b, 2),
        lambda a, b: F.avg_pool1d(F.pad(a, (0, 1)), 3)[..., :1] + F.avg_pool1d(b, 2),
        "padding",
        "the model pads by",
    ),
    "a table of another base": (
        weighted(10000.0),
        weighted(500.0),
        "rotary",
        "a table made with base 500.0, the source one with 10000.0",
    ),
    "another number in the place of a tensor": (
        lambda a, b: a * 3.0 + b,
        lambda a, b: a * 2.0 + b,
        "scale",
        "mul in the model itself (Made) takes the number 2.0, in the source 3.0",
    ),
    "a mask of its own in the place of the causal one": (
        lambda a, b: F.scaled_dot_product_attention(a, b, b, attn_mask=torch.ones(3, 3).tril().triu(-1).bool()),
        lambda a, b: F.scaled_dot_product_attention(a, b, b, is_causal=True),
        "structure",
        "uses the causal mask, the source a mask or bias",
    ),
    "another part": (
        lambda a, b: a[..., :2] + b[..., :2],
        lambda a, b: a[..., 2:] + b[..., :2],
        "order",
        "picks",
    ),
    "entries in another order": (
        lambda a, b: a.reshape(2, 3, 2, 2)[:, :, 0] + b[..., :2],
        lambda a, b: a.reshape(2, 3, 2, 2).transpose(2, 3)[:, :, 0] + b[..., :2],
        "order",
        "takes the same entries as select in the model itself (Made) of the source, in another order",
    ),
    "an input that is a multiple": (
        lambda a, b: normed_beside(a) + b,
        lambda a, b: normed_beside(a * 4) + b,
        "scale",
        "takes a value that is 4 times that of the source, out of mul in the model itself (Made)",
    ),
    "another way of pooling": (
        lambda a, b: F.avg_pool1d(a, 2) + F.avg_pool1d(b, 2),
        lambda a, b: F.avg_pool1d(a, 2) + F.max_pool1d(b, 2),
        "structure",
        "at this place",
    ),
    "another operation": (lambda a, b: a.relu() + b, lambda a, b: a.cumsum(1) + b, "structure", "at this place"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_cause_says_what_differs(case):
    source, target, kind, words = CASES[case]
    said = found(source, target)
    assert not said.passed
    assert said.causes[0].kind == kind, str(said)
    assert words in said.causes[0].text, str(said)


@pytest.mark.parametrize("layer", [nn.Linear, lambda n, m, bias: nn.Conv1d(n, m, 1, bias=bias)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_weight_that_one_side_lacks_is_named(layer, biased):
    source, model = (nn.ModuleDict({"body": layer(4, 4, bias=bias)}) for bias in (biased, not biased))
    for one in (source, model):
        one.forward = one["body"].forward
    model.load_state_dict(source.state_dict(), strict=False)
    said = tg.verify(model, source, torch.randn(2, 4, 4), plan=tg.Plan(steps=()))
    assert [(cause.kind, len(cause.source), len(cause.target)) for cause in said.causes] == [
        ("structure", 1 + biased, 2 - biased)
    ]
    assert f"the model {'with' if biased else 'without'} the weight that" in said.causes[0].remedy


class Normed(nn.Module):
    """A layer between two norms; the whole is normed first, or last."""

    def __init__(self, first):
        super().__init__()
        self.layer, self.inner, self.outer, self.first = nn.Linear(4, 4), nn.LayerNorm(4), nn.LayerNorm(4), [first]

    def forward(self, x):
        norms = (self.outer, self.inner) if self.first[0] else (self.inner, self.outer)
        return norms[1](self.layer(norms[0](x)))


def test_a_norm_that_stands_at_another_place_is_named_by_its_weights():
    source, model = Normed(first=False), Normed(first=True)
    for norm in (source.inner, source.outer):
        nn.init.normal_(norm.weight)
    said = tg.verify(model, source, torch.randn(2, 4), plan=tg.load(model, source))
    assert [cause.kind for cause in said.causes] == ["structure"], str(said)
    assert "uses outer.weight and outer.bias, in the source inner.weight and inner.bias" in said.causes[0].text


class Configured(nn.Module):
    """Reads a setting of its config as it runs, as models of transformers do."""

    def __init__(self, config):
        super().__init__()
        self.config, self.layer = config, nn.Linear(4, 4)

    def forward(self, x):
        x = self.layer(x)
        return x if self.config.cap is None else self.config.cap * (x / self.config.cap).tanh()


def test_what_only_configs_tell_is_named_after_what_was_seen():
    source, model = (
        Configured(SimpleNamespace(cap=cap, names={"a": 1}, _from=cap, kinds=kinds))
        for cap, kinds in ((3.0, ["full"]), (None, ["full", "window"]))
    )
    said = tg.verify(model, source, torch.randn(2, 4), plan=tg.load(model, source))
    assert [cause.kind for cause in said.causes] == ["structure", "setting", "setting"], str(said)
    assert "cap is None, in the source 3.0" in said.causes[1].text
    assert "kinds is ['full', 'window'], in the source ['full']" in said.causes[2].text


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * (1.702 * x).sigmoid()


class Scaled(nn.Module):
    """Multiplies by one more than its weight, as norms of Gemma do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return x * (1.0 + self.weight)


def test_a_weight_that_a_table_is_made_of_is_said_to_be_wrong_once():
    source, model = (nn.Sequential(nn.Linear(4, 4), Scaled()) for _ in range(2))
    report = tg.load(model, source)
    nn.init.normal_(model[1].weight)
    said = tg.verify(model, source, torch.randn(2, 4), plan=report)
    assert [cause.kind for cause in said.causes] == ["value"], str(said)


def test_a_recorded_run_tells_of_wrong_weights_once_and_of_activations_by_their_names(tmp_path):
    source, model, rounded = (nn.Sequential(nn.Linear(4, 4), Scaled(), act()) for act in (nn.GELU, nn.GELU, QuickGELU))
    inputs = torch.randn(2, 4)
    tg.record(source, inputs, tmp_path / "run.pt")
    report = tg.load(model, source)
    nn.init.normal_(model[1].weight)
    said = tg.verify(model, golden=tmp_path / "run.pt", inputs=inputs, plan=report)
    assert [cause.kind for cause in said.causes] == ["value"], str(said)
    report = tg.load(rounded, source)
    said = tg.verify(rounded, golden=tmp_path / "run.pt", inputs=inputs, plan=report)
    assert [(cause.kind, cause.text) for cause in said.causes] == [
        ("activation", "2 applies QuickGELU, the source GELU")
    ]


class Times(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = [by]  # no setting that is compared

    def forward(self, x):
        return x * self.by[0]


def test_a_step_that_changes_nothing_in_the_source_is_the_counterpart_of_its_own():
    source, model = (nn.Sequential(nn.Linear(4, 4), Times(by), nn.Linear(4, 4)) for by in (1.0, 5.0))
    said = tg.verify(model, source, torch.randn(2, 4), plan=tg.load(model, source))
    assert said.divergence.source.module == said.divergence.target.module == "1", str(said)
    assert said.causes[0].text == "mul in 1 (Times) takes the number 5.0, in the source 1.0"


class Doubling(nn.Module):
    def forward(self, x):
        return x * 2


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (
            nn.Identity(),
            Doubling(),
            "the model does mul in the model itself (Doubling), which the source has nothing like",
        ),
        (Doubling(), nn.Identity(), "the source does mul in the model itself (Doubling), which the model leaves out"),
    ],
)
def test_an_operation_on_one_side_alone_is_named(source, target, words):
    said = tg.verify(target, source, torch.randn(2, 3), plan=tg.Plan(steps=()))
    assert [(cause.kind, cause.text) for cause in said.causes] == [("structure", words)]


class Adding(nn.Module):
    """A layer, and what is added to its result."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, residual):
        return self.layer(x) + residual


class Switched(nn.Module):
    """A block that adds what stands before its norm or behind it, by a switch of a name that no other library has."""

    def __init__(self, residual_behind):
        super().__init__()
        self.residual_behind = residual_behind
        self.norm, self.part = nn.LayerNorm(4), Adding()

    def forward(self, x):
        normed = self.norm(x)
        return self.part(normed, normed if self.residual_behind else x)


def test_a_switch_around_comes_before_words_on_other_steps():
    source, model = (nn.Sequential(Switched(residual_behind)) for residual_behind in (False, True))
    result = tg.verify(model, source, torch.randn(2, 3, 4), plan=tg.load(model, source))
    assert result.divergence.target.module == "0.part"
    assert result.causes[0].text == "0: residual_behind is True, in the source False"
    assert result.causes[0].remedy == "build the model with residual_behind False"
    assert {cause.kind for cause in result.causes[1:]} == {"structure"}
