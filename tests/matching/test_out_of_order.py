"""Names and blocks that say what belongs together where two libraries register layers in another order."""

from __future__ import annotations

import pytest
from filling import filled
from torch import nn

import torchgraft as tg

WIDTH = 8


def attention() -> nn.Module:
    return nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "out_proj")})


def mlp(first: str, second: str) -> dict[str, nn.Module]:
    return {first: nn.Linear(WIDTH, 20), second: nn.Linear(20, WIDTH)}


def norms(*names: str) -> dict[str, nn.Module]:
    return {name: nn.LayerNorm(WIDTH) for name in names}


def stack(name: str, block: dict[str, nn.Module]) -> nn.Module:
    return filled(nn.ModuleDict({name: nn.ModuleList(nn.ModuleDict(block) for _ in range(1))}))


def decoder_as_in_torch() -> nn.Module:
    block = {"self_attn": attention(), "multihead_attn": attention(), **mlp("linear1", "linear2")}
    return stack("layers", block | norms("norm1", "norm2", "norm3"))


def decoder_as_in_fairseq() -> nn.Module:
    block = {"self_attn": attention(), **norms("self_attn_layer_norm"), "encoder_attn": attention()}
    block |= {**norms("encoder_attn_layer_norm"), **mlp("fc1", "fc2"), **norms("final_layer_norm")}
    return stack("layers", block)


def pools(first: str, second: str, *, norms_first: bool) -> nn.Module:
    made = norms(first, second)
    inner = nn.ModuleDict(mlp("conv1", "conv2"))
    return stack("stages", {**made, "mlp": inner} if norms_first else {"mlp": inner, **made})


def fed(model: nn.Module, file: nn.Module) -> dict[str, str]:
    plan = tg.load(model, file.state_dict()).plan
    return {slot: step.feeds[0].key for slot, step in plan.by_slot.items() if step.feeds}


@pytest.mark.parametrize("turn", [False, True])
def test_numbered_norms_behind_two_attentions_are_theirs_and_the_last_layers(*, turn: bool) -> None:
    sides = decoder_as_in_torch(), decoder_as_in_fairseq()
    told = fed(*(sides[::-1] if turn else sides))
    want = dict(
        zip(
            ("norm1", "norm2", "norm3"),
            ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
            strict=True,
        )
    )
    found = {(b, a) if turn else (a, b) for a, b in told.items() if "norm" in a}
    assert found == {
        (f"layers.0.{a}.{role}", f"layers.0.{b}.{role}") for a, b in want.items() for role in ("weight", "bias")
    }


def test_a_norm_before_and_one_after_are_the_first_and_the_second() -> None:
    told = fed(pools("before_norm", "after_norm", norms_first=False), pools("norm1", "norm2", norms_first=True))
    assert told["stages.0.before_norm.weight"] == "stages.0.norm1.weight"
    assert told["stages.0.after_norm.weight"] == "stages.0.norm2.weight"


def test_a_last_norm_is_the_whole_blocks_where_its_layers_have_norms_of_their_own() -> None:
    def conformer(own: str, **last: nn.Module) -> nn.Module:
        layers = nn.ModuleDict({own: nn.LayerNorm(WIDTH), **mlp("fc1", "fc2")})
        return stack("layers", {"ffn": layers, "self_attn": attention(), **last})

    told = fed(conformer("layer_norm", **norms("final_layer_norm")), conformer("norm", **norms("norm_final")))
    assert told["layers.0.final_layer_norm.weight"] == "layers.0.norm_final.weight"
    assert told["layers.0.ffn.layer_norm.weight"] == "layers.0.ffn.norm.weight"


def attends_in_time(first: str, second: str) -> nn.Module:
    block = {"attn": attention(), "norm1": nn.LayerNorm(WIDTH), second: attention(), first: nn.LayerNorm(WIDTH)}
    return stack("layers", {**block, **mlp("fc1", "fc2"), **norms("norm2")})


def test_a_word_that_two_of_four_names_share_tells_them_apart() -> None:
    told = fed(
        attends_in_time("temporal_norm1", "temporal_attn"), attends_in_time("temporal_layernorm", "temporal_attention")
    )
    assert told["layers.0.temporal_norm1.weight"] == "layers.0.temporal_layernorm.weight"
    assert told["layers.0.norm1.weight"] == "layers.0.norm1.weight"


def stages(name: str, *, as_list: bool) -> nn.Module:
    widths = (WIDTH, 12, 16)
    parts: dict[str, nn.Module] = {
        f"block{n}": nn.ModuleList(
            nn.ModuleDict({"norm1": nn.LayerNorm(w), "fc": nn.Linear(w, w), "norm2": nn.LayerNorm(w)}) for _ in range(2)
        )
        for n, w in enumerate(widths, 1)
    }
    last = [nn.LayerNorm(w) for w in widths]
    parts |= {name: nn.ModuleList(last)} if as_list else {f"{name}{n}": norm for n, norm in enumerate(last, 1)}
    return filled(
        nn.ModuleDict({"encoder": nn.ModuleDict(parts), "head": nn.ModuleList(nn.Linear(w, 5) for w in widths)})
    )


@pytest.mark.parametrize("turn", [False, True])
def test_norms_behind_the_stages_may_be_a_list_on_one_side(*, turn: bool) -> None:
    sides = stages("norm", as_list=False), stages("layer_norm", as_list=True)
    told = fed(*(sides[::-1] if turn else sides))
    for n in range(3):
        pair = f"encoder.norm{n + 1}.weight", f"encoder.layer_norm.{n}.weight"
        assert told[pair[turn]] == pair[not turn]


@pytest.mark.parametrize("turn", [False, True])
def test_a_last_norm_is_that_of_the_layers_that_lie_in_a_module_of_their_own(*, turn: bool) -> None:
    """So DETR is called in transformers."""
    block = {"self_attn": attention(), **norms("self_attn_layer_norm"), "encoder_attn": attention()}
    layers = {"mlp": nn.ModuleDict(mlp("fc1", "fc2"))}
    ours = stack("layers", block | norms("encoder_attn_layer_norm") | layers | norms("final_layer_norm"))
    sides = ours, decoder_as_in_torch()
    told = fed(*(sides[::-1] if turn else sides))
    assert {(b, a) if turn else (a, b) for a, b in told.items() if "final" in a + b} == {
        (f"layers.0.final_layer_norm.{role}", f"layers.0.norm3.{role}") for role in ("weight", "bias")
    }


def test_a_last_norm_that_both_sides_have_stays_where_only_one_has_its_layers_in_a_module() -> None:
    """SEW in transformers and in fairseq, in files that are sorted by name."""
    layers = {"feed_forward": nn.ModuleDict(mlp("intermediate_dense", "output_dense"))}
    ours = {"attention": attention(), **layers, **norms("final_layer_norm", "layer_norm")}
    theirs = {
        **mlp("fc1", "fc2"),
        **norms("final_layer_norm"),
        "self_attn": attention(),
        **norms("self_attn_layer_norm"),
    }
    told = fed(stack("layers", ours), stack("layers", theirs))
    assert told["layers.0.final_layer_norm.weight"] == "layers.0.final_layer_norm.weight"
    assert told["layers.0.layer_norm.weight"] == "layers.0.self_attn_layer_norm.weight"
