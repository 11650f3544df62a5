"""Norms and layers of transformer blocks under other names: read by what stands beside them, and where they stand."""

from collections.abc import Mapping

import pytest
import torch
from filling import nested
from torch import nn

import torchgraft as tg

WIDTH, INNER = 8, 12
SHAPES = {"qkv": (24, 8), "o": (8, 8), "up": (INNER, WIDTH), "down": (WIDTH, INNER), "gate": (INNER, WIDTH)}
SHAPES |= dict.fromkeys("qkv", (WIDTH, WIDTH))

# Where blocks of libraries keep their parts, in the order in which they register them; `{}` is the number of the block.
ONE_LIST = {
    "norm1": "layers.{}.input_layernorm", "qkv": "layers.{}.self_attn.qkv", "o": "layers.{}.self_attn.o_proj",
    "norm2": "layers.{}.post_attention_layernorm", "up": "layers.{}.mlp.up_proj", "down": "layers.{}.mlp.down_proj",
}  # fmt: skip
# transformers registers norms behind the layers.
NORMS_LAST = {part: ONE_LIST[part] for part in ("qkv", "o", "up", "down", "norm1", "norm2")}
IN_MEMBERS = {
    "norm1": "layers.{}.0.norm", "qkv": "layers.{}.0.fn.to_qkv", "o": "layers.{}.0.fn.to_out.0",
    "norm2": "layers.{}.1.norm", "up": "layers.{}.1.fn.net.0", "down": "layers.{}.1.fn.net.3",
}  # fmt: skip
SIDE_BY_SIDE = {
    "norm1": "attn_norms.{}", "qkv": "attns.{}.qkv", "o": "attns.{}.out",
    "norm2": "mlp_norms.{}", "up": "mlps.{}.0", "down": "mlps.{}.2",
}  # fmt: skip
SPELLED_OUT = {
    "norm1": "blocks.{}.attn_norm", "qkv": "blocks.{}.attn.qkv", "o": "blocks.{}.attn.out",
    "norm2": "blocks.{}.pre_mlp_norm", "up": "blocks.{}.mlp.fc1", "down": "blocks.{}.mlp.fc2",
}  # fmt: skip


def named(places: Mapping[str, str], last: str = "norm", *, by_list: bool = False) -> dict[str, str]:
    """Return the names of the parts of three blocks, and of the embedding and the norms around them, by what they are."""
    blocks = (
        [(part, n) for part in places for n in range(3)]
        if by_list
        else [(part, n) for n in range(3) for part in places]
    )
    inside = {f"{part} {n}": f"{places[part].format(n)}.weight" for part, n in blocks}
    return {"tok": "embed_tokens.weight"} | inside | ({"last": f"{last}.weight"} if last else {})


def shape(part: str) -> tuple[int, ...]:
    return (30, WIDTH) if part == "tok" else SHAPES.get(part.split(maxsplit=1)[0], (WIDTH,))


def tensors(names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape(part)) for part, name in names.items()}


def built(names: Mapping[str, str]) -> nn.Module:
    return nested({name.removesuffix(".weight"): layer(*shape(part)) for part, name in names.items()})


def layer(rows: int, width: int | None = None) -> nn.Module:
    return nn.RMSNorm(rows) if width is None else nn.Linear(width, rows, bias=False)


def loads(ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    file, model = tensors(theirs), built(ours)
    tg.load(model, file)
    got = model.state_dict()
    assert all(torch.equal(got[name], file[theirs[part]]) for part, name in ours.items())


LAYOUTS = [
    named(ONE_LIST), named(NORMS_LAST), named(IN_MEMBERS), named(SIDE_BY_SIDE, by_list=True), named(SPELLED_OUT),
]  # fmt: skip


@pytest.mark.parametrize("ours", LAYOUTS)
@pytest.mark.parametrize("theirs", LAYOUTS)
def test_blocks_in_other_lists_and_under_other_names_are_filled(ours: dict[str, str], theirs: dict[str, str]) -> None:
    loads(ours, theirs)


def test_norms_of_members_that_both_attend_are_in_doubt_in_a_block_that_says_no_order() -> None:
    both = IN_MEMBERS | {"up": "layers.{}.1.fn.to_q", "down": "layers.{}.1.fn.to_out.0"}
    plan = tg.plan(built(named(NORMS_LAST)), tensors(named(both)))
    norms = [step for step in plan.steps if "layernorm" in step.slot.name]
    assert all(step.certainty is tg.Certainty.DOUBT or not step.feeds for step in norms)


FOUR = {
    "norm1": "layers.{}.input_layernorm", "post1": "layers.{}.post_attention_layernorm",
    "norm2": "layers.{}.pre_feedforward_layernorm", "post2": "layers.{}.post_feedforward_layernorm",
}  # fmt: skip
NUMBERED = {
    "norm1": "layers.{}.norm1",
    "post1": "layers.{}.post_norm1",
    "norm2": "layers.{}.norm2",
    "post2": "layers.{}.post_norm2",
}
WORDED = {
    "norm1": "layers.{}.self_attention_layernorm", "post1": "layers.{}.self_attention_post_layernorm",
    "norm2": "layers.{}.feedforward_layernorm", "post2": "layers.{}.feedforward_post_layernorm",
}  # fmt: skip


@pytest.mark.parametrize("ours", [FOUR, NUMBERED, WORDED])
@pytest.mark.parametrize("theirs", [FOUR, NUMBERED, WORDED])
def test_four_norms_of_a_block_are_told_by_words_and_numbers(ours: dict[str, str], theirs: dict[str, str]) -> None:
    layers = {part: ONE_LIST[part] for part in ("qkv", "o", "up", "down")}
    loads(named(layers | ours), named(layers | theirs))


GATED = {"gate": "layers.{}.mlp.gate_proj"} | {part: ONE_LIST[part] for part in ("up", "down")}
DENSE = {
    "up": "layers.{}.ff_intermediate_dense",
    "down": "layers.{}.ff_output_dense",
    "gate": "layers.{}.ff_gate_dense",
}


def test_two_layers_beside_one_called_a_gate_are_up_and_down_by_their_shapes() -> None:
    loads(named(GATED), named(DENSE))
    loads(named(DENSE), named(GATED))


def test_an_adapter_that_goes_down_first_is_no_network_that_goes_up_first() -> None:
    adapter = {"up": "layers.{}.adapter.down_proj", "down": "layers.{}.adapter.up_proj"}
    plain = {"up": "layers.{}.mlp.fc2", "down": "layers.{}.mlp.fc1"}
    narrow = {part: (3, WIDTH) if part == "up" else (WIDTH, 3) for part in ("up", "down")}
    file = {name: torch.randn(narrow.get(part.split()[0], shape(part))) for part, name in named(adapter).items()}
    plan = tg.plan(built(named(plain)), file)
    assert not any(
        step.feeds and step.certainty is tg.Certainty.CERTAIN for step in plan.steps if "mlp" in step.slot.name
    )


LAST = ["norm", "final_norm", "ln_f", "norm_out", "post_layernorm", "final.0"]


@pytest.mark.parametrize("ours", LAST)
@pytest.mark.parametrize("theirs", LAST)
def test_a_last_norm_goes_to_the_last_norm_under_another_name(ours: str, theirs: str) -> None:
    loads(named(NORMS_LAST, ours), named(SPELLED_OUT, theirs))


@pytest.mark.parametrize("other", ["fc_norm", "pooler.norm", "norm_pre"])
def test_a_norm_whose_name_says_something_else_is_no_last_norm(other: str) -> None:
    for ours, theirs in (("norm", other), (other, "norm")):
        plan = tg.plan(built(named(NORMS_LAST, ours)), tensors(named(SPELLED_OUT, theirs)))
        step = plan.by_slot[f"{ours}.weight"]
        assert step.certainty is tg.Certainty.DOUBT or not step.feeds


@pytest.mark.parametrize("front", ["norm", "embed_norm"])
def test_a_norm_before_the_blocks_is_no_last_norm(front: str) -> None:
    theirs = named(SPELLED_OUT, "")
    file = tensors({"tok": theirs.pop("tok"), "front": f"{front}.weight"} | theirs)
    step = tg.plan(built(named(NORMS_LAST, "ln_f")), file).by_slot["ln_f.weight"]
    assert step.certainty is tg.Certainty.DOUBT or not step.feeds


def with_front(names: dict[str, str], front: str) -> dict[str, str]:
    """Return the names with those of a norm between the embedding and the blocks."""
    return {"tok": names["tok"], "front": f"{front}.weight"} | names


FRONT = ["pre_layrnorm", "norm_in", "ln_pre", "embed_norm"]


@pytest.mark.parametrize("ours", FRONT)
@pytest.mark.parametrize("theirs", FRONT)
def test_of_norms_around_the_blocks_the_first_is_the_first_and_the_last_the_last(ours: str, theirs: str) -> None:
    loads(with_front(named(NORMS_LAST, "post_layernorm"), ours), with_front(named(SPELLED_OUT, "ln_f"), theirs))


def test_a_norm_that_both_sides_call_otherwise_is_no_rival_of_the_last() -> None:
    """Decision Transformer's `embed_ln` is registered behind the blocks."""
    ours, theirs = (
        named(places, last) | {"beside": "embed_ln.weight"}
        for places, last in ((NORMS_LAST, "ln_f"), (SPELLED_OUT, "norm"))
    )
    loads(ours, theirs)


def test_a_norm_that_is_called_the_last_is_the_last_wherever_it_is_registered() -> None:
    """OPT registers its `final_layer_norm` in front of the layers, each of which has one, too."""
    inside = NORMS_LAST | {"norm2": "layers.{}.final_layer_norm"}
    front = with_front(named(inside, ""), "final_layer_norm")
    front = {("last" if part == "front" else part): name for part, name in front.items()}
    loads(front, named(SPELLED_OUT, "out_norm"))
    loads(named(SPELLED_OUT, "out_norm"), front)


def test_of_a_norm_before_and_one_behind_the_blocks_none_is_the_last_for_sure() -> None:
    model = built(named(NORMS_LAST, "norm"))
    theirs = named(SPELLED_OUT, "final_norm")
    file = tensors({"tok": theirs.pop("tok"), "front": "norm0.weight"} | theirs)
    step = tg.plan(model, file).by_slot["norm.weight"]
    assert step.certainty is tg.Certainty.DOUBT or step.feeds[0].key == "final_norm.weight"


def test_in_a_file_sorted_by_name_the_name_says_which_norm_is_the_last() -> None:
    theirs = named(SPELLED_OUT, "final_norm")
    file = tensors(theirs)
    model = built(named(NORMS_LAST, "norm"))
    tg.load(model, {name: file[name] for name in sorted(file)})
    assert torch.equal(model.get_parameter("norm.weight"), file["final_norm.weight"])


@pytest.mark.parametrize(("ours", "theirs"), [("qn", "q_norm"), ("q_layernorm", "qn")])
def test_norms_of_queries_and_keys_are_told_by_their_letters(ours: str, theirs: str) -> None:
    def parts(called: str) -> dict[str, str]:
        around = "layers.{}.self_attn."
        return ONE_LIST | {"qn": around + called, "kn": around + called.replace("q", "k", 1)}

    loads(named(parts(ours)), named(parts(theirs)))


def test_a_layer_in_a_row_inside_of_its_block_is_in_the_list_of_its_block() -> None:
    """Hunyuan-DiT's `mlp.fc1` is `ff.net.0.proj` in diffusers, while its norms and attention keep their names."""
    plain = {part: name.replace("layers", "blocks") for part, name in ONE_LIST.items()}
    inside = {"up": "blocks.{}.mlp.0.fc1", "down": "blocks.{}.mlp.2"}
    loads(named(plain | inside), named(plain | {"up": "blocks.{}.mlp.fc1", "down": "blocks.{}.mlp.fc2"}))


SHORTENED = {
    "norm1": "blocks.{}.layernorm_before",
    "q": "blocks.{}.attention.q_proj", "k": "blocks.{}.attention.k_proj", "v": "blocks.{}.attention.v_proj",
    "o": "blocks.{}.attention.o_proj", "inner": "blocks.{}.attention.reduction.layer_norm",
    "norm2": "blocks.{}.layernorm_after", "up": "blocks.{}.mlp.fc1", "down": "blocks.{}.mlp.fc2",
}  # fmt: skip
SORTED = {
    "o": "blocks.{}.attention.output.dense", "k": "blocks.{}.attention.self.key", "inner": "blocks.{}.attention.self.layer_norm",
    "q": "blocks.{}.attention.self.query", "v": "blocks.{}.attention.self.value",
    "norm1": "blocks.{}.layer_norm_1", "norm2": "blocks.{}.layer_norm_2",
    "up": "blocks.{}.mlp.dense1", "down": "blocks.{}.mlp.dense2",
}  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), [(SHORTENED, SORTED), (SORTED, SHORTENED)])
def test_a_norm_inside_of_an_attention_is_not_the_first_of_its_block(ours, theirs):
    """SegFormer shortens and normalises what keys are made of; files are sorted by name, so that this norm comes first there."""
    loads(named(ours), dict(sorted(named(theirs).items(), key=lambda item: item[1])))
