"""A part that another library names, in a file whose other names agree, is judged as a foreign file is."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def tower(names, last):
    blocks = [
        nn.ModuleDict({names[1]: nn.LayerNorm(8), names[2]: nn.Linear(8, 12), names[3]: nn.Linear(12, 8)})
        for _ in range(3)
    ]
    return nn.ModuleDict({names[0]: nn.ModuleList(blocks), last: nn.LayerNorm(8)})


def both(tower_name, names, last):
    text = nn.ModuleList([nn.ModuleDict({"key": nn.Linear(16, 16), "dense": nn.Linear(16, 16)}) for _ in range(4)])
    return filled(nn.ModuleDict({tower_name: tower(names, last), "text_decoder": text}))


def test_a_tower_under_other_names_is_filled_to_its_last_norm():
    source = both("visual_encoder", ("blocks", "norm1", "fc1", "fc2"), "norm")
    target = both("vision_model", ("layers", "layer_norm", "up", "down"), "post_layernorm")
    tg.load(target, source.state_dict(), on_doubt="take")
    ours, theirs = source["visual_encoder"], target["vision_model"]
    assert torch.equal(theirs["post_layernorm"].weight, ours["norm"].weight)
    assert torch.equal(theirs["layers"][2]["down"].weight, ours["blocks"][2]["fc2"].weight)


def test_where_the_tower_is_familiar_a_leftover_of_another_name_stays_fresh():
    source = both("visual", ("blocks", "norm1", "fc1", "fc2"), "norm")
    target = both("visual", ("blocks", "norm1", "fc1", "fc2"), "fc_norm")
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    assert not any(step.feeds for step in plan.steps if "fc_norm" in step.slot.name)


def block():
    parts = {
        "input_norm": nn.LayerNorm(8),
        "qkv": nn.Linear(8, 24),
        "dense": nn.Linear(8, 8),
        "post_norm": nn.LayerNorm(8),
    }
    return nn.ModuleDict({**parts, "fc1": nn.Linear(8, 20), "fc2": nn.Linear(20, 8)})


def decoders():
    """Return two decoders whose blocks are called alike, and nothing beside them."""
    blocks = [nn.ModuleList([block() for _ in range(3)]) for _ in range(2)]
    one = {"word_embeddings": nn.Embedding(30, 8), "word_embeddings_norm": nn.LayerNorm(8), "h": blocks[0], "ln_f": nn.LayerNorm(8)}  # fmt: skip
    embedding = nn.ModuleDict({"table": nn.Embedding(30, 8), "norm": nn.LayerNorm(8)})
    other = nn.ModuleDict({"layers": blocks[1], "final_layernorm": nn.LayerNorm(8)})
    both = nn.ModuleDict({"transformer": nn.ModuleDict(one)}), nn.ModuleDict({"embedding": embedding, "encoder": other})
    return [filled(side) for side in both]


@pytest.mark.parametrize("turned", [False, True])
def test_where_only_blocks_are_familiar_the_norms_beside_them_are_in_doubt_not_fresh(turned):
    source, target = reversed(decoders()) if turned else decoders()
    state = source.state_dict()
    with pytest.raises(tg.PlanRefusedError, match="in doubt"):
        tg.load(target, state)
    tg.load(target, state, on_doubt="take")
    for ours, theirs in zip(state.values(), target.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
