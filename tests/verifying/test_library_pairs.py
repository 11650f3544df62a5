"""Pairs of published implementations whose weights map and whose hyper-parameters differ: the cause is named."""

import pytest
import torch
from faulty_models import randomised

import torchgraft as tg
from torchgraft.core.results.recording import family


def mobilenet():
    import timm
    from torchvision.models import mobilenet_v3_small

    return mobilenet_v3_small(num_classes=7), timm.create_model("mobilenetv3_small_100", num_classes=7), image(64)


def efficientnet():
    import timm
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    source = timm.create_model("efficientnet_b0", num_classes=7)
    config = EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, image_size=64, hidden_dim=1280, num_labels=7,
                                batch_norm_eps=1e-5)  # fmt: skip
    return source, EfficientNetForImageClassification(config), image(64)


def vit():
    from timm.models.vision_transformer import VisionTransformer
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    target = VisionTransformer(
        img_size=32, patch_size=8, depth=2, num_heads=4, embed_dim=32, mlp_ratio=2, num_classes=0
    )
    return ViTModel(config, add_pooling_layer=False), target, image(32)


def clip():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
              "patch_size": 8}  # fmt: skip
    models = [CLIPVisionModel(CLIPVisionConfig(**config, hidden_act=act)) for act in ("quick_gelu", "gelu")]
    return *models, image(32)


def resnet():
    from transformers import ResNetConfig, ResNetModel

    config = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]}
    models = [ResNetModel(ResNetConfig(**config, downsample_in_bottleneck=first)) for first in (False, True)]
    return *models, image(32)


def llama():
    from transformers import LlamaConfig, LlamaModel

    config = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    models = [
        LlamaModel(LlamaConfig(**config, rope_parameters={"rope_type": "default", "rope_theta": base}))
        for base in (1e4, 5e5)
    ]
    return *models, {"input_ids": torch.randint(0, 50, (2, 9))}


def encoder():
    from torch import nn

    return *(nn.TransformerEncoderLayer(16, 4, 32, norm_first=first).eval() for first in (False, True)), torch.randn(
        3, 2, 16
    )


def image(size):
    torch.manual_seed(5)
    return torch.randn(2, 3, size, size)


PAIRS = {
    mobilenet: ("batch norm", "setting", (1e-5, 1e-3)),
    efficientnet: ("padding", "padding", None),
    vit: ("layer norm", "setting", (1e-6, 1e-12)),
    clip: ("activation", "activation", None),
    resnet: ("convolution", "setting", ((2, 2), (1, 1))),
    llama: ("product", "rotary", (5e5, 1e4)),
    encoder: ("layer norm", "structure", (True, False)),
}


SLOW = (mobilenet, efficientnet)  # whole networks: their libraries build them in one size only


@pytest.mark.parametrize(
    "build",
    [pytest.param(build, marks=pytest.mark.slow if build in SLOW else ()) for build in PAIRS],
    ids=lambda build: build.__name__,
)
def test_the_setting_that_differs_is_named(build):
    operation, kind, both = PAIRS[build]
    source, target, inputs = build()
    randomised(source)
    if build is vit:  # an epsilon shows where norms see small values
        with torch.no_grad():
            source.embeddings.patch_embeddings.projection.weight.mul_(1e-3)
            for name, value in source.named_parameters():
                if "embeddings" in name and "weight" not in name:
                    value.mul_(1e-3)
    report = tg.load(target, source, on_doubt="take")
    found = tg.verify(target.eval(), source, inputs, plan=report)
    assert not found.passed
    assert family(found.divergence.target.name) == operation, str(found)
    assert found.causes[0].kind == kind, str(found)
    if both is not None:
        assert (found.causes[0].target, found.causes[0].source) == both
    said = tg.compare_hyperparameters(target, source, report)
    assert not said.equal or kind == "rotary", str(said)
