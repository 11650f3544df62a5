"""The first difference is where values part, whatever later operations have in common by chance, in types of any precision."""

import copy

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.results.recording import family


class Net(nn.Module):
    """Three norms in a row, and a function of what the second one gives."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.third = (nn.LayerNorm(6) for _ in range(3))
        self.body, self.head, self.function = nn.Linear(6, 6), nn.Linear(6, 4), function
        self.tokens = nn.Embedding(6, 6)
        with torch.no_grad():
            for norm in (self.first, self.second, self.third):
                norm.weight.uniform_(0.5, 1.5)

    def forward(self, x):
        return self.head(self.third(self.body(self.function(self, self.second(self.first(x))))))


FORGETTING = {
    "noise of its shape": lambda _, x: x + 0.1 * torch.randn_like(x),
    "a comparison": lambda _, x: torch.where(x > 0, x, 0.3 * x),
    "a position": lambda net, x: x + net.tokens(x.argmax(-1)),
    "whole numbers": lambda net, x: x + net.tokens((x > 100).long().cumsum(-1)).mean(-2),
    "a sign": lambda _, x: x + x.sign() * 0.5,
}


@pytest.mark.parametrize("case", FORGETTING)
def test_what_would_be_the_same_for_other_values_hides_no_difference(case):
    torch.manual_seed(0)
    source = Net(FORGETTING[case]).eval()
    model = copy.deepcopy(source)
    report = tg.load(model, source)
    model.second.eps = 0.05
    found = tg.verify(model, source, torch.randn(3, 6), plan=report)
    assert found.divergence.target.module == "second", str(found)
    assert found.causes[0].kind == "setting"


def test_what_only_a_comparison_makes_use_of_is_no_difference():
    def function(_, x):
        return torch.where(x.cumsum(-1) > 0, 1.5, -0.5) * x.detach().clone().fill_(0.7).cumsum(0)

    torch.manual_seed(0)
    source = Net(function).eval()
    model = copy.deepcopy(source)
    report = tg.load(model, source)
    model.second.eps, model.third.eps = 1e-4, 0.05
    found = tg.verify(model, source, torch.randn(3, 6), plan=report)
    assert found.divergence.target.module == "third", str(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outputs_that_differ_by_little_are_explained_as_well(dtype):
    torch.manual_seed(0)
    source = Net(lambda _, x: x).eval().to(dtype)
    model = copy.deepcopy(source)
    report = tg.load(model, source)
    model.second.eps = 1e-2
    found = tg.verify(model, source, torch.randn(3, 6).to(dtype), plan=report, tolerance=1e-6)
    assert not found.passed
    assert (found.divergence.target.module, family(found.divergence.target.name)) == ("second", "layer norm"), str(
        found
    )
    assert found.causes[0].kind == "setting"


class Decoder(nn.Module):
    """Queries that see each other before they see the input, as detectors have them."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.own, self.other = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        queries = self.queries.expand(len(x), -1, -1)
        queries = self.norm(queries + self.own(queries, queries, queries)[0])
        return self.head(self.other(queries, x, x)[0])


@pytest.mark.parametrize(
    ("wrong", "module", "kind"),
    [
        (lambda net: net.own.out_proj.weight.data.mul_(1.1), "own", "scaled"),
        (lambda net: setattr(net.own, "num_heads", 4) or setattr(net.own, "head_dim", 2), "own", "heads"),
        (lambda net: setattr(net.norm, "eps", 0.1), "norm", "setting"),
        (lambda net: net.other.in_proj_bias.data.add_(1), "other", "value"),
    ],
)
def test_a_difference_in_what_is_made_of_weights_alone_is_named_where_it_is(wrong, module, kind):
    torch.manual_seed(0)
    source = Decoder().eval()
    model = copy.deepcopy(source)
    report = tg.load(model, source)
    wrong(model)
    found = tg.verify(model, source, torch.randn(2, 4, 8), plan=report)
    assert found.divergence.target.module == module, str(found)
    assert found.causes[0].kind == kind, str(found)


def test_inputs_that_a_callable_makes_are_inputs():
    source, model = (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)) for _ in range(2))
    report = tg.load(model, source)
    model[1].eps = 0.5
    for given in (
        torch.randn(3, 4),
        lambda one: one(torch.randn(3, 4)),
        lambda one: one(torch.arange(12.0).view(3, 4)),
    ):
        said = tg.verify(model, source, given, plan=report)
        assert said.divergence.target.module == said.divergence.source.module == "1", str(said)
        assert [cause.kind for cause in said.causes] == ["setting"]
