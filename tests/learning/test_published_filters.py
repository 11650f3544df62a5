"""More conversion code of other libraries: timm's filters for the first checkpoints of a family, transformers' own mapping."""

import importlib
import re

import pytest
import torch
from test_libraries import reproduces

import torchgraft as tg


def replaced(*rules):
    """Return a function that turns a name of timm's into that of the family's first code."""

    def old(name):
        for pattern, put in rules:
            name = re.sub(pattern, put, name)
        return name

    return old


def one_less(pattern, put):
    return (pattern, lambda found: put.format(int(found[1]) - 1))


def one_more(pattern, put):
    return (pattern, lambda found: put.format(int(found[1]) + 1))


FIRST_NAMES = {
    "edgenext": ("edgenext_xx_small", replaced(
        (r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head."), ("mlp.fc", "pwconv"), ("conv_dw", "dwconv"),
        (r"stages\.(\d+)\.downsample\.", r"downsample_layers.\1."), (r"stages\.(\d+)\.blocks\.", r"stages.\1."),
        (r"^stem\.", "downsample_layers.0."),
    )),
    "pit": ("pit_ti_224", replaced(one_less(r"transformers\.(\d)\.pool\.", "pools.{}."))),
    "xcit": ("xcit_nano_12_p16_224", replaced((r"^pos_embed\.", "pos_embeder."))),
    "cait": ("cait_xxs24_224", replaced(("^", "module."))),
    "pvt_v2": ("pvt_v2_b0", replaced(
        (r"^patch_embed\.", "patch_embed1."), one_more(r"stages\.(\d)\.downsample", "patch_embed{}"),
        one_more(r"stages\.(\d)\.norm", "norm{}"), one_more(r"stages\.(\d)\.blocks", "block{}"),
        (r"dwconv\.", "dwconv.dwconv."),
    )),
    "mlp_mixer": ("resmlp_12_224", replaced(
        (r"^stem\.", "patch_embed."), (r"linear_tokens\.", "attn."), (r"mlp_channels\.", "mlp."), (r"ls(\d)", r"gamma_\1"),
    )),
    "davit": ("davit_tiny", replaced(
        (r"^stem\.", "stages.0.downsample."), (r"downsample\.conv", "downsample.proj"), (r"head\.fc\.", "head."),
        (r"head\.norm\.", "norms."), (r"cpe(\d)", lambda found: f"cpe.{int(found[1]) - 1}"),
        (r"stages\.(\d)\.downsample", r"patch_embeds.\1"), (r"stages\.(\d)\.blocks", r"main_blocks.\1"),
    )),
    "swin_transformer": ("swin_tiny_patch4_window7_224", replaced(
        one_less(r"layers\.(\d+)\.downsample", "layers.{}.downsample"), (r"head\.fc", "head"),
    )),
}  # fmt: skip
QUICK = ("edgenext", "pit", "xcit")


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FIRST_NAMES])
def test_timm_reads_the_first_checkpoints_of_a_family(family):
    import timm

    name, old = FIRST_NAMES[family]
    model = timm.create_model(name, num_classes=6)
    convert = importlib.import_module(f"timm.models.{family}").checkpoint_filter_fn
    tensors = {old(n): t for n, t in model.state_dict().items() if t.is_floating_point()}
    shapes = {n: (t.numel(),) if n.endswith((".alpha", ".beta")) else tuple(t.shape) for n, t in tensors.items()}
    found = tg.learn(lambda state: convert(state, model), {n: torch.zeros(shape) for n, shape in shapes.items()})
    assert found.complete
    assert {made.name for made in found.outputs} <= set(model.state_dict())
    assert any(made.keys and made.name != made.keys[0] for made in found.outputs)
    reproduces(found, lambda state: convert(state, model), shapes)


def tiny_text(**more):
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    return {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2} | ends | more  # fmt: skip


def tiny_vision(**more):
    return {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
            "patch_size": 8} | more  # fmt: skip


def experts():
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**tiny_text(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=12
    )))  # fmt: skip


def vision():
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    return DINOv3ViTModel(DINOv3ViTConfig(**tiny_vision(num_register_tokens=2)))


def fused():
    from transformers import NomicBertConfig, NomicBertModel

    return NomicBertModel(NomicBertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    ))  # fmt: skip


def two_in_one():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(LlavaConfig(
        vision_config=CLIPVisionConfig(**tiny_vision()), text_config=LlamaConfig(**tiny_text())
    ))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("build", [experts, vision, fused, two_in_one])
def test_transformers_reads_what_it_writes_under_the_first_names(build, tmp_path):
    """Saving turns names back to those of the hub, which differ from those of the modules."""
    from safetensors.torch import load_file

    model = build()
    model.save_pretrained(tmp_path)
    shapes = {n: tuple(t.shape) for n, t in load_file(tmp_path / "model.safetensors").items()}

    def convert(state):
        return type(model).from_pretrained(None, config=model.config, state_dict=state, dtype=torch.float32)

    found = tg.learn(convert, {n: torch.zeros(shape) for n, shape in shapes.items()})
    assert found.complete
    assert not found.dropped
    reproduces(found, convert, shapes)
    assert {made.name for made in found.inverse().outputs} == set(shapes)
