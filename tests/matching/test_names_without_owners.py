"""Files whose names have no dots: MXNet's and Gluon's, with what a tensor is to its layer behind a joint."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def file(stem, mark, order=dict):
    made = {}
    for at, channels in enumerate((3, 8)):
        made[f"{stem}conv{at}_weight"] = torch.randn(8, channels, 3, 3)
        for role in ("gamma", "beta", "running_mean", "running_var"):
            made[f"{stem}batchnorm{at}_{role}"] = torch.rand(8)
    made |= {f"{stem}dense0_weight": torch.randn(5, 8), f"{stem}dense0_bias": torch.randn(5)}
    if mark:
        kinds = {key: "aux:" if "running" in key else "arg:" for key in made}
        made = {kinds[key] + key.replace("running", "moving"): value for key, value in made.items()}
    return order(made)


def by_name(made):
    return dict(sorted(made.items()))


def net():
    def norm():
        return nn.BatchNorm2d(8)

    layers = {
        "conv1": nn.Conv2d(3, 8, 3, bias=False),
        "bn1": norm(),
        "conv2": nn.Conv2d(8, 8, 3, bias=False),
        "bn2": norm(),
    }
    return nn.ModuleDict({**layers, "fc": nn.Linear(8, 5)})


@pytest.mark.parametrize("order", [dict, by_name], ids=["in order", "by name"])
@pytest.mark.parametrize(("stem", "mark"), [("", False), ("resnetv10_", False), ("", True)])
def test_norms_are_filled_as_the_other_layers_are(stem, mark, order):
    model, made = net(), file(stem, mark, order)
    assert not tg.load(model, made).plan.fresh
    plain = {key.removeprefix("arg:").removeprefix("aux:").removeprefix(stem): value for key, value in made.items()}
    for at in (0, 1):
        norm = model[f"bn{at + 1}"]
        assert torch.equal(model[f"conv{at + 1}"].weight, plain[f"conv{at}_weight"])
        assert torch.equal(norm.weight, plain[f"batchnorm{at}_gamma"])
        assert torch.equal(norm.bias, plain[f"batchnorm{at}_beta"])
        assert torch.equal(norm.running_var, plain[f"batchnorm{at}_{'moving' if mark else 'running'}_var"])


def test_names_that_a_model_has_stay_as_they_are():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_gamma, self.norm_beta = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

    made = {"norm_gamma": torch.randn(4), "norm_beta": torch.randn(4)}
    model = Raw()
    tg.load(model, made)
    assert all(torch.equal(value, made[name]) for name, value in model.state_dict().items())


def test_llama_cpp_calls_the_table_of_tokens_by_a_short_word():
    model = nn.ModuleDict(
        {
            "embed_tokens": nn.Embedding(20, 8),
            "layers": nn.ModuleList(nn.LayerNorm(8) for _ in range(2)),
            "lm_head": nn.Linear(8, 20, bias=False),
        }
    )
    made = {"token_embd.weight": torch.randn(20, 8), "output.weight": torch.randn(20, 8)}
    plan = tg.plan(model, made, min_coverage=0)
    assert plan.by_slot["embed_tokens.weight"].feeds[0].key == "token_embd.weight"
    assert plan.by_slot["embed_tokens.weight"].certainty.name != "DOUBT"
