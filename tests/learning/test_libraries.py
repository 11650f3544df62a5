"""Conversion code of other libraries, learned as it stands: the plan gives what the code gives, to the last bit."""

import re
from types import SimpleNamespace

import pytest
import torch

import torchgraft as tg


def reproduces(found, convert, shapes):
    """Whether learned and own conversion agree on other values than those that were learned on."""
    g = torch.Generator().manual_seed(11)
    values = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    mine = found.convert(values)
    own = convert({name: value.clone() for name, value in values.items()})
    own = own if isinstance(own, dict) else own.state_dict()
    assert set(mine) | {c.spec.name for c in found.computed} == set(own)
    assert all(torch.equal(mine[name], own[name]) and mine[name].dtype == own[name].dtype for name in mine)


def zeros(shapes):
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def clip_shapes(width, out, layers):
    blocks = {
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    return {
        "visual.class_embedding": (width,), "visual.positional_embedding": (5, width), "visual.proj": (width, out),
        "visual.conv1.weight": (width, 3, 8, 8), "visual.ln_pre.weight": (width,), "visual.ln_pre.bias": (width,),
        "visual.ln_post.weight": (width,), "visual.ln_post.bias": (width,), "logit_scale": (),
        **{f"visual.transformer.resblocks.{i}.{n}": s for i in range(layers) for n, s in blocks.items()},
    }  # fmt: skip


def small_vit(**more):
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=8, **more)


def test_timm_reads_clip():
    from timm.models.vision_transformer import checkpoint_filter_fn

    model = small_vit(pre_norm=True)
    shapes = clip_shapes(16, 8, 2)

    def convert(state):
        return checkpoint_filter_fn(state, model)

    found = tg.learn(convert, zeros(shapes))
    assert found.complete
    assert found.dropped == ("logit_scale",)
    reproduces(found, convert, shapes)
    assert found.by_name["head.weight"].feeds[0].ops[0].name == "transpose"
    assert found.by_name["head.bias"].ops[0].name == "constant"

    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    mine, own = small_vit(pre_norm=True), small_vit(pre_norm=True)
    own.load_state_dict(convert(dict(state)), strict=False)
    report = tg.load(mine, state, learned=found)
    assert not report.plan.unused
    filled = [n for n, step in report.plan.by_name.items() if step.feeds]
    assert all(torch.equal(mine.state_dict()[n], own.state_dict()[n]) for n in filled)
    assert len(filled) == len(found.outputs)


def test_timm_reads_dinov2_and_what_it_adds_up_is_named():
    from timm.models.vision_transformer import checkpoint_filter_fn

    model = small_vit(reg_tokens=4, no_embed_class=True)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if "reg_token" not in name}
    shapes |= {"register_tokens": (1, 4, 16), "mask_token": (1, 16), "pos_embed": (1, 5, 16)}

    def convert(state):
        return checkpoint_filter_fn(state, model)

    found = tg.learn(convert, zeros(shapes))
    assert [c.spec.name for c in found.computed] == ["cls_token"]
    assert set(found.computed[0].keys) == {
        "pos_embed",
        "cls_token",
    }
    assert found.dropped == ("mask_token",)
    assert "dim 1 1:5 of 5" in str(found)
    reproduces(found, convert, shapes)


def test_timm_reads_the_first_convnext_checkpoints():
    from timm.models.convnext import ConvNeXt, checkpoint_filter_fn

    model = ConvNeXt(num_classes=8, depths=(1, 1, 2, 1), dims=(8, 16, 16, 24), use_grn=True, ls_init_value=None)
    shapes = {}
    for name, value in model.state_dict().items():
        old = name.replace("stem.", "downsample_layers.0.").replace("head.norm", "norm").replace("head.fc", "head")
        old = re.sub(r"stages\.(\d)\.blocks", r"stages.\1", old)
        old = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", old).replace("conv_dw", "dwconv")
        old = old.replace("mlp.grn.bias", "grn.beta").replace("mlp.grn.weight", "grn.gamma").replace("mlp.fc", "pwconv")
        shapes[old] = (1, 1, 1, *value.shape) if "grn" in old else tuple(value.shape)

    def convert(state):
        return checkpoint_filter_fn(state, model)

    found = tg.learn(convert, zeros(shapes))
    assert found.complete
    assert {o.name for o in found.outputs} == set(model.state_dict())
    reproduces(found, convert, shapes)
    back = found.inverse()
    assert {o.name for o in back.outputs} == set(shapes)


def test_torchvision_upgrades_vision_transformers_of_the_first_version():
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=8)
    renamed = {"mlp.0": "mlp.linear_1", "mlp.3": "mlp.linear_2"}
    shapes = {}
    for name, value in model.state_dict().items():
        for new, old in renamed.items():
            name = name.replace(new, old)  # noqa: PLW2901
        shapes[name] = tuple(value.shape)

    def convert(state):
        model.load_state_dict(state)
        return model

    found = tg.learn(convert, zeros(shapes))
    assert found.complete
    assert not found.dropped
    reproduces(found, convert, shapes)
    assert sum(o.name != o.keys[0] for o in found.outputs) == 8


def test_torchvision_renames_the_layers_of_densenet():
    from torchvision.models.densenet import DenseNet, _load_state_dict

    model = DenseNet(4, (2, 2), 8, num_classes=8)
    floats = {n: v for n, v in model.state_dict().items() if v.is_floating_point()}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", n): tuple(v.shape) for n, v in floats.items()}

    def convert(state):
        _load_state_dict(model, SimpleNamespace(get_state_dict=lambda **_: state), progress=False)
        return {n: v for n, v in model.state_dict().items() if n in floats}

    found = tg.learn(convert, zeros(old))
    assert found.complete
    reproduces(found, convert, old)
    assert "denselayer{1,2}" in str(found)


@pytest.mark.slow
def test_transformers_packs_the_experts_of_mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    shapes = {}
    for name, value in MixtralForCausalLM(config).state_dict().items():
        shape = tuple(value.shape)
        old = name.replace(".mlp.", ".block_sparse_moe.")
        if "experts.gate_up_proj" in old:
            for i in range(4):
                for part in ("w1", "w3"):
                    shapes[old.replace("gate_up_proj", f"{i}.{part}.weight")] = (shape[1] // 2, shape[2])
        elif "experts.down_proj" in old:
            shapes |= {old.replace("down_proj", f"{i}.w2.weight"): shape[1:] for i in range(4)}
        else:
            shapes[old] = shape

    def convert(state):
        return MixtralForCausalLM.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)

    found = tg.learn(convert, zeros(shapes))
    assert found.complete
    assert not found.dropped
    reproduces(found, convert, shapes)
    assert len(found.by_name["model.layers.0.mlp.experts.gate_up_proj"].feeds) == 8
    back = found.inverse()
    assert {o.name for o in back.outputs} == set(shapes)
