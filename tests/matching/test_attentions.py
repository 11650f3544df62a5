"""Blocks with several attentions: whose norm a numbered norm is, and which attention is the cross-attention."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty
from torchgraft.matching.names.attentions import read_attentions


def attention():
    return nn.ModuleDict({part: nn.Linear(8, 8) for part in ("q_proj", "k_proj", "v_proj", "out_proj")})


PARTS = {
    "self": ("self_attn", "self_attn_layer_norm"),
    "cross": ("encoder_attn", "encoder_attn_layer_norm"),
    "mlp": ("fc1", "fc2", "final_layer_norm"),
}


def spelled():
    """Every norm is named for what it stands behind."""
    block = {}
    for part in ("self", "cross"):
        name, norm = PARTS[part]
        block |= {name: attention(), norm: nn.LayerNorm(8)}
    block |= {"fc1": nn.Linear(8, 16), "fc2": nn.Linear(16, 8), "final_layer_norm": nn.LayerNorm(8)}
    return nn.ModuleDict(block)


def numbered(first, second):
    """Norms are numbered in the order in which they come, each right behind its attention."""
    block = {}
    for number, name in enumerate((first, second), 1):
        block |= {name: attention(), f"norm{number}": nn.LayerNorm(8)}
    block |= {"linear1": nn.Linear(8, 16), "linear2": nn.Linear(16, 8), "norm3": nn.LayerNorm(8)}
    return nn.ModuleDict(block)


def net(block, *given):
    return filled(
        nn.ModuleDict({"decoder": nn.ModuleDict({"layers": nn.ModuleList([block(*given) for _ in range(2)])})})
    )


@pytest.mark.parametrize(
    ("first", "second"), [("self_attn", "cross_attn"), ("cross_attn", "self_attn"), ("self_attn", "multihead_attn")]
)
def test_a_numbered_norm_belongs_to_the_attention_that_it_stands_behind(first, second):
    source, target = net(numbered, first, second), net(spelled)
    tg.load(target, source.state_dict(), on_doubt="take")
    theirs = {"self_attn": "self_attn", "cross_attn": "encoder_attn", "multihead_attn": "encoder_attn"}
    for ours, there in (("norm1", first), ("norm2", second)):
        value = source["decoder"]["layers"][1][ours].weight
        assert torch.equal(target["decoder"]["layers"][1][f"{theirs[there]}_layer_norm"].weight, value)
        assert torch.equal(
            target["decoder"]["layers"][1][theirs[there]]["q_proj"].weight,
            source["decoder"]["layers"][1][there]["q_proj"].weight,
        )


def before(names, norms):
    """Norms stand before what they belong to, as in latent diffusion."""
    own, cross, mlp = names
    first, second, third = norms
    return nn.ModuleDict(
        {first: nn.LayerNorm(8), own: attention(), second: nn.LayerNorm(8), cross: attention(),
         third: nn.LayerNorm(8), mlp: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))}
    )  # fmt: skip


def test_a_numbered_norm_belongs_to_the_attention_behind_it_where_one_comes_first():
    ours, theirs = ("norm1", "norm2", "norm3"), ("self_attn_norm", "cross_attn_norm", "ff_norm")
    source = net(before, ("attn1", "attn2", "ff"), ours)
    target = net(before, ("self_attn", "cross_attn", "mlp"), theirs)
    tg.load(target, source.state_dict())
    for here, there in zip((*ours, "attn1", "attn2"), (*theirs, "self_attn", "cross_attn"), strict=True):
        pairs = [module["decoder"]["layers"][1][name] for module, name in ((source, here), (target, there))]
        for value, placed in zip(pairs[0].parameters(), pairs[1].parameters(), strict=True):
            assert torch.equal(value, placed)


def test_numbers_prove_nothing_where_they_fall_in_order_of_registration():
    def shuffled(order):
        parts = {"self_attn": attention(), "cross_attn": attention(), "linear1": nn.Linear(8, 16)}
        return nn.ModuleDict(parts | {"linear2": nn.Linear(16, 8)} | {f"norm{n}": nn.LayerNorm(8) for n in order})

    for order, sure in (((1, 2, 3), True), ((2, 1, 3), False)):
        plan = tg.plan(net(spelled), net(shuffled, order).state_dict(), on_doubt="take")
        own = [step for step in plan.steps if "self_attn_layer_norm" in step.slot.name]
        assert own
        assert all((step.certainty.name == "CERTAIN") is sure for step in own)


def test_in_a_file_sorted_by_name_numbers_of_such_norms_prove_nothing():
    source, target = net(numbered, "cross_attn", "self_attn"), net(spelled)
    plan = tg.plan(target, dict(sorted(source.state_dict().items())), on_doubt="take")
    for step in plan.steps:
        if "attn_layer_norm" in step.slot.name and step.feeds:
            assert step.certainty.name == "DOUBT"


def test_a_block_of_one_attention_is_read_as_it_is():
    assert read_attentions(["h.0.attn.qkv", "h.0.norm1", "h.0.mlp.fc1", "h.0.norm2"]) == {}
    assert read_attentions(["attn", "norm1"]) == {}


class Scaled(nn.Module):
    """A block with tensors of its own, which come before its layers and of which one is called after the attention."""

    def __init__(self, before, after):
        super().__init__()
        self.input_residual, self.post_attention_residual = (nn.Parameter(torch.empty(8)) for _ in range(2))
        self.add_module(before, nn.LayerNorm(8))
        self.self_attn = attention()
        self.add_module(after, nn.LayerNorm(8))


def test_a_tensor_called_after_the_attention_is_no_second_attention():
    source, target = net(Scaled, "attention_norm", "ln_2"), net(Scaled, "input_layernorm", "post_attention_layernorm")
    tg.load(target, source.state_dict())
    for ours, theirs in (("attention_norm", "input_layernorm"), ("ln_2", "post_attention_layernorm")):
        for n in range(2):
            block = source["decoder"]["layers"][n], target["decoder"]["layers"][n]
            assert torch.equal(block[1].get_submodule(theirs).weight, block[0].get_submodule(ours).weight)


def test_members_of_a_list_are_told_in_the_cross_attention_too():
    """`linears.0` is the query there as well, registered before the key; the model has keys first."""

    def block(own, cross, parts):
        attns = {
            name: nn.ModuleDict({part: nn.Linear(8, 8) for part in parts})
            if parts[0] != "linears"
            else nn.ModuleDict({"linears": nn.ModuleList(nn.Linear(8, 8) for _ in range(4))})
            for name in (own, cross)
        }
        return nn.ModuleDict(attns | {"fc1": nn.Linear(8, 16), "fc2": nn.Linear(16, 8)})

    source = net(block, "self_attn", "src_attn", ["linears"])
    target = net(block, "self_attn", "encoder_attn", ["k_proj", "v_proj", "q_proj", "out_proj"])
    tg.load(target, source.state_dict())
    for ours, theirs in (("self_attn", "self_attn"), ("src_attn", "encoder_attn")):
        for n, part in enumerate(("q_proj", "k_proj", "v_proj", "out_proj")):
            value = source["decoder"]["layers"][1][ours]["linears"][n].weight
            assert torch.equal(target["decoder"]["layers"][1][theirs][part].weight, value)


@pytest.mark.parametrize("back", ["out", "proj_out"])
def test_out_beside_query_key_and_value_is_the_projection_of_the_output(back):
    def block(*parts):
        attn = nn.ModuleDict({part: nn.Linear(8, 8) for part in parts})
        return nn.ModuleDict({"attn": attn, "fc1": nn.Linear(8, 16), "fc2": nn.Linear(16, 8)})

    source, target = net(block, "query", "key", "value", back), net(block, "o_proj", "v_proj", "k_proj", "q_proj")
    plan = tg.load(target, source.state_dict()).plan
    assert {step.certainty.name for step in plan.steps if "o_proj" in step.slot.name} == {"CERTAIN"}
    assert torch.equal(
        target["decoder"]["layers"][0]["attn"]["o_proj"].weight, source["decoder"]["layers"][0]["attn"][back].weight
    )


@pytest.mark.parametrize("added", [False, True])
def test_norms_of_equal_names_correspond_where_order_tells_on_one_side_alone_whose_they_are(added):
    file = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2).state_dict()
    model = {name.replace("out_proj", "post").replace("linear1", "body"): value for name, value in file.items()}
    more = {name.replace("self_attn", "self_attn_1"): value for name, value in file.items() if "self_attn" in name}
    plan = tg.plan(model, dict(sorted((file | more if added else file).items())), on_doubt="take")
    fed = {step.slot.name: step.feeds[0].key for step in plan.steps if "norm" in step.slot.name}
    assert fed == {name: name for name in file if "norm" in name}


@pytest.mark.parametrize("back", [False, True])
def test_numbers_say_whose_norms_they_are_where_the_file_is_sorted_and_calls_norms_otherwise(*, back):
    sides = [net(behind_both, norm) for norm in ("norm", "ln")]
    source, target = reversed(sides) if back else sides
    plan = tg.plan(target, dict(sorted(source.state_dict().items())))
    for step in plan.steps:
        assert [feed.key for feed in step.feeds] == [
            step.slot.name.replace(*((".norm", ".ln") if back else (".ln", ".norm")))
        ]


def behind_both(norm):
    """The norms stand behind both attentions, and are called by a word and a number."""
    layers = {"linear1": nn.Linear(8, 16), "linear2": nn.Linear(16, 8)}
    norms = {f"{norm}{number}": nn.LayerNorm(8) for number in (1, 2, 3)}
    return nn.ModuleDict({"self_attn": attention(), "multihead_attn": attention()} | layers | norms)


def test_numbers_say_it_in_all_blocks_of_a_list_where_order_does_not_in_one():
    """An attention that was added to one block leaves its norms without an order."""
    sides = [net(behind_both, norm) for norm in ("ln", "norm")]
    sides[1]["decoder"]["layers"][0]["multihead_attn_b"] = attention()
    plan = tg.plan(sides[1], sides[0].state_dict())
    norms = [step for step in plan.steps if ".norm" in step.slot.name]
    assert {step.slot.name: step.feeds[0].key for step in norms} == {
        step.slot.name: step.slot.name.replace(".norm", ".ln") for step in norms
    }
    assert all(step.certainty is Certainty.CERTAIN for step in norms)
