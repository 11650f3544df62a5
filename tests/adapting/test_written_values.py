"""Values that llama.cpp's conversion changes go back to what the model was trained with, or are in doubt."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import torchgraft as tg


class Scaled(nn.Module):
    """A norm of any kind; its class says what it does with its weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8))


class GemmaRMSNorm(Scaled):
    """Multiplies by one more than its weight."""


class RMSNorm(Scaled):
    """Multiplies by its weight, or by one more."""


def model(norm):
    return nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({
        "input_layernorm": norm(), "self_attn": nn.ModuleDict({"o_proj": nn.Linear(8, 8, bias=False)}),
        "post_attention_layernorm": norm(), "mlp": nn.ModuleDict({"up_proj": nn.Linear(8, 12, bias=False)}),
    }) for _ in range(2)]), "norm": norm()})  # fmt: skip


NAMES = {"input_layernorm": "attn_norm", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.up_proj": "ffn_up", "layers": "blk", "norm": "output_norm"}  # fmt: skip


def as_llama_cpp(net, path, architecture):
    """Save the network under llama.cpp's names."""
    out = {}
    for name, value in net.state_dict().items():
        inside = name.removesuffix(".weight").split(".", 2)
        read = "output_norm" if len(inside) == 1 else f"blk.{inside[1]}.{NAMES[inside[2]]}"
        out[f"{read}.weight"] = value.clone()
    save_file(out, path, {"general.architecture": architecture})
    return path


@pytest.mark.parametrize("architecture", ["gemma", "gemma2", "gemma3", "nemotron", "qwen3next"])
def test_what_llama_cpp_adds_to_norms_is_taken_off_for_norms_that_add_it_themselves(tmp_path, architecture):
    source, target = model(GemmaRMSNorm), model(GemmaRMSNorm)
    report = tg.load(target, as_llama_cpp(source, tmp_path / "m.safetensors", architecture))
    theirs = source.state_dict()
    for name, value in target.state_dict().items():
        assert torch.equal(value, theirs[name] - 1 if "norm" in name else theirs[name]), name
    assert "1 taken off" in str(report)


def test_norms_of_another_class_are_in_doubt_and_can_be_taken_as_they_are(tmp_path):
    source, target = model(RMSNorm), model(RMSNorm)
    path = as_llama_cpp(source, tmp_path / "m.safetensors", "gemma2")
    with pytest.raises(tg.PlanRefusedError, match="adds one to the weights of these norms, and nothing tells"):
        tg.load(target, path)
    tg.load(target, path, on_doubt="take")
    assert torch.equal(target["norm"].weight, source["norm"].weight)


@pytest.mark.parametrize("architecture", ["llama", "gemma3n", "gemma4"])
def test_norms_of_other_architectures_go_over_as_they_are(tmp_path, architecture):
    source, target = model(GemmaRMSNorm), model(GemmaRMSNorm)
    tg.load(target, as_llama_cpp(source, tmp_path / "m.safetensors", architecture))
    assert torch.equal(target["norm"].weight, source["norm"].weight)


@pytest.mark.parametrize(
    ("architecture", "doubted"),
    [("plamo2", "norm"), ("falcon-h1", "o_proj"), ("plamo", "o_proj")],
)
def test_what_can_not_be_taken_back_is_in_doubt(tmp_path, architecture, doubted):
    plan = tg.plan(model(RMSNorm), as_llama_cpp(model(RMSNorm), tmp_path / "m.safetensors", architecture))
    wanted = [name for name in model(RMSNorm).state_dict() if doubted in name]
    assert [step.slot.name for step in plan.doubtful] == wanted
