"""The one layer that reads an image is known by its kernel, whatever it is called and wherever it is registered.

The names are CLIP's, as OpenAI and as transformers has them, with the norm that every published file of the latter misspells.
"""

import pytest
from names_only import given_shapes

from torchgraft import planning
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.request import make_request

STEM = "vision_model.embeddings.patch_embedding.weight"
SAME = {
    "ln_1": "layer_norm1", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip


def tower(wide, blocks, names, depth=2):
    sizes = ((wide,), (4 * wide, wide), (wide, 4 * wide), (wide,), (wide, wide))
    layers = [(f"{blocks}.{n}.{name}", size) for n in range(depth) for name, size in zip(names, sizes, strict=True)]
    return {f"{name}.{role}": size[:ndim] for name, size in layers for role, ndim in (("weight", 2), ("bias", 1))}


def norm(name, wide):
    return {f"{name}.weight": (wide,), f"{name}.bias": (wide,)}


def openai(kernel):
    """The tower of pictures first."""
    sees = {"visual.conv1.weight": kernel, **norm("visual.ln_pre", 8)}
    sees |= tower(8, "visual.transformer.resblocks", SAME) | norm("visual.ln_post", 8)
    return {
        **sees,
        **tower(6, "transformer.resblocks", SAME, 4),
        "token_embedding.weight": (50, 6),
        **norm("ln_final", 6),
    }


def transformers(kernel):
    """The tower of texts first."""
    text = {
        "text_model.embeddings.token_embedding.weight": (50, 6),
        **tower(6, "text_model.encoder.layers", SAME.values(), 4),
    }
    sees = {STEM: kernel, **norm("vision_model.pre_layrnorm", 8)}
    sees |= tower(8, "vision_model.encoder.layers", SAME.values()) | norm("vision_model.post_layernorm", 8)
    return {**text, **norm("text_model.final_layer_norm", 6), **sees}


def planned(file, model):
    slots = [
        Slot(spec=TensorSpec(name, shape, DType.F32), owner=name.rpartition(".")[0], order=order)
        for order, (name, shape) in enumerate(model.items())
    ]
    return planning.make_plan(given_shapes(file), Target(tuple(slots), {}, heads={}), make_request())


def fed(plan):
    return {step.slot.name: (feed.key, step.certainty) for step in plan.steps for feed in step.feeds}


@pytest.mark.parametrize("turned_round", [False, True])
def test_stem_and_norms_around_a_tower_are_in_no_doubt(turned_round):
    sides = openai((8, 3, 4, 4)), transformers((8, 3, 4, 4))
    found = fed(planned(*(reversed(sides) if turned_round else sides)))
    assert Certainty.DOUBT not in {certainty for _, certainty in found.values()}
    pairs = {(to, key) if turned_round else (key, to) for to, (key, _) in found.items()}
    assert {
        ("visual.conv1.weight", STEM),
        ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
        ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    } <= pairs


@pytest.mark.parametrize("kernel", [(8, 5, 4, 4), (8, 3, 1, 1)])
def test_other_kernels_of_another_name_are_in_doubt(kernel):
    assert fed(planned(openai(kernel), transformers(kernel)))[STEM] == ("visual.conv1.weight", Certainty.DOUBT)


def test_of_two_readers_none_is_known_by_its_kernel():
    kernel = (8, 3, 4, 4)
    model = transformers(kernel) | {STEM.replace("vision", "depth"): kernel}
    found = fed(planned(openai(kernel), model))
    assert Certainty.LIKELY not in {found[name][1] for name in found if name.endswith("patch_embedding.weight")}
