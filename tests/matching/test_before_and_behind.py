"""A norm before a layer is none behind it."""

import pytest
from filling import filled
from scoring import Case, decided
from torch import nn

import torchgraft as tg


def net(name, *, pre):
    def block():
        norm, layers = nn.LayerNorm(6), {"up": nn.Linear(6, 12), "down": nn.Linear(12, 6)}
        return nn.ModuleDict({name: norm, **layers} if pre else {**layers, name: norm})

    parts = {"emb": nn.Embedding(9, 6), "blocks": nn.ModuleList([block(), block()]), "head": nn.Linear(6, 7)}
    return filled(nn.ModuleDict(parts))


NAMES = [
    ("pre_ffn_norm", "post_ffn_norm"),
    ("before_ffn_norm", "after_ffn_norm"),
    ("norm_before_ffn", "norm_after_ffn"),
    ("ffn_pre_norm", "ffn_post_norm"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("pre", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_a_norm_that_moved_behind_its_layers_is_in_doubt(names, pre, moved):
    """Also where it is registered at the same place: only its name says then where it runs."""
    ours, theirs = names[:: 1 if pre else -1]
    steps = tg.plan(net(theirs, pre=not pre if moved else pre), net(ours, pre=pre).state_dict()).steps
    norms = [step for step in steps if "norm" in step.slot.name]
    assert all(step.certainty is tg.Certainty.DOUBT or not step.feeds for step in norms)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(["pre_norm"], ["norm2"]), (["pre_norm", "post_norm"], ["norm2", "norm1"])]
)
def test_a_norm_that_a_word_calls_the_first_is_no_second_one(ours, theirs):
    """Also where the model registers its second norm before all else of the block."""

    def side(blocks, names):
        layers = {
            "attn.qkv.weight": [36, 12],
            "attn.proj.weight": [12, 12],
            "fc1.weight": [48, 12],
            "fc2.weight": [12, 48],
        }
        block = {**{f"{name}.weight": [12] for name in names}, **layers}
        return {f"{blocks}.{n}.{name}": shape for n in range(3) for name, shape in block.items()}

    for blocks in ("blocks", "layers"):
        found = decided(Case(side("blocks", ours), side(blocks, theirs)))
        assert {found[f"{blocks}.{n}.norm2.weight"][1] for n in range(3)} == {"doubt"}
