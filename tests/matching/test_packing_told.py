"""What tells how fused rows go beside their name: the class of the attention, the modules around it, the other side."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.errors import PlanRefusedError
from torchgraft.core.plan import Certainty
from torchgraft.matching.tables.packing import Owners, packing_of

WIDTH, HEADS = 24, 3


def attention(kind: str, heads: int | None = HEADS, inside: str = "", **parts: nn.Module) -> nn.Module:
    """Return a module whose class is called `kind`, with parts and perhaps one without tensors of the class `inside`."""
    made: nn.Module = type(kind, (nn.Module,), {})()
    if heads:
        made.num_heads = heads  # type: ignore[assignment]
    for name, part in parts.items():
        setattr(made, name, part)
    if inside:
        made.inner = type(inside, (nn.Module,), {})()
    return made


def network(*blocks: nn.Module, name: str = "attn") -> nn.Module:
    return nn.ModuleDict({"h": nn.ModuleList(nn.ModuleDict({name: block}) for block in blocks)})


class Turned(nn.Module):
    """A layer that keeps its matrix [in, out]."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, rows)), nn.Parameter(torch.randn(rows))


def by_heads(rows: torch.Tensor) -> torch.Tensor:
    return rows.reshape(3, HEADS, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def gpt(kind: str, layer: type = nn.Linear) -> nn.Module:
    made = [(lambda n: nn.Linear(WIDTH, n)) if layer is nn.Linear else layer][0]
    return network(*(attention(kind, c_attn=made(3 * WIDTH), c_proj=made(WIDTH)) for _ in range(2)))


def test_a_class_that_packs_by_heads_gets_rows_of_other_code_by_heads_under_the_same_name() -> None:
    old, new = gpt("Attention", Turned), gpt("GPTBigCodeAttention")
    plan = tg.load(new, old.state_dict()).plan
    for role in ("weight", "bias"):
        kept, want = (getattr(net["h"][1]["attn"].c_attn, role) for net in (new, old))
        assert torch.equal(kept, by_heads(want.T if role == "weight" else want))
    assert plan.by_slot["h.1.attn.c_attn.weight"].certainty is Certainty.CERTAIN


def test_what_looks_like_the_models_own_file_goes_over_as_it_is_and_is_no_more_than_likely() -> None:
    old, new = gpt("Attention"), gpt("GPTBigCodeAttention")
    plan = tg.load(new, old.state_dict()).plan
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in new.state_dict().items())
    assert plan.by_slot["h.0.attn.c_attn.weight"].certainty is Certainty.LIKELY
    again = tg.plan(gpt("Attention"), old.state_dict())
    assert again.by_slot["h.0.attn.c_attn.weight"].certainty is Certainty.CERTAIN


class Block(nn.Module):
    """A block of nanoGPT: GPTBigCode in transformers has the very names, and packs head by head without multi-query."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.attn = attention(kind, c_attn=nn.Linear(WIDTH, 3 * WIDTH), c_proj=nn.Linear(WIDTH, WIDTH))
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 2 * WIDTH), "c_proj": nn.Linear(2 * WIDTH, WIDTH)})


@pytest.mark.parametrize(("shown", "sure"), [(False, Certainty.LIKELY), (True, Certainty.CERTAIN)])
def test_equal_names_that_stand_for_two_orders_are_certain_only_with_both_classes(
    sure: Certainty, *, shown: bool
) -> None:
    old, new = (nn.ModuleList([Block("CausalSelfAttention")]) for _ in range(2))
    plan = tg.plan(new, old if shown else old.state_dict())
    assert plan.by_slot["0.attn.c_attn.weight"].certainty is sure
    assert plan.by_slot["0.attn.c_proj.weight"].certainty is Certainty.CERTAIN
    assert not plan.objections
    said = tg.plan(new, old.state_dict(), qkv_layout="flat")
    assert said.by_slot["0.attn.c_attn.weight"].certainty is Certainty.CERTAIN


def test_rows_of_other_code_under_equal_names_are_put_in_order_where_its_class_is_shown() -> None:
    old, new = (nn.ModuleList([Block(kind)]) for kind in ("GPTBigCodeAttention", "CausalSelfAttention"))
    tg.load(new, old, num_heads=HEADS)
    got, kept = (net[0].attn.c_attn.weight for net in (new, old))  # type: ignore[union-attr]
    assert torch.equal(by_heads(got), kept)


def denoiser(inside: str = "") -> nn.Module:
    def made() -> nn.Module:
        parts = {"norm": nn.GroupNorm(3, WIDTH), "qkv": nn.Conv1d(WIDTH, 3 * WIDTH, 1)}
        return attention("AttentionBlock", inside=inside, **parts, proj_out=nn.Conv1d(WIDTH, WIDTH, 1))

    return network(made(), made())


def apart() -> nn.Module:
    def made() -> nn.Module:
        layers = {name: nn.Linear(WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v", "to_out")}
        return attention("Attention", group_norm=nn.GroupNorm(3, WIDTH), **layers)

    return network(made(), made())


def joined(net: nn.Module) -> torch.Tensor:
    return torch.cat([getattr(net["h"][1]["attn"], f"to_{name}").weight for name in "qkv"])


@pytest.mark.parametrize(("inside", "heads_first"), [("QKVAttentionLegacy", True), ("QKVAttention", False)])
def test_a_class_inside_of_the_attention_tells_the_order_that_its_name_leaves_open(
    inside: str, *, heads_first: bool
) -> None:
    old, new = apart(), denoiser(inside)
    tg.load(new, old.state_dict())
    got = new["h"][1]["attn"].qkv.weight.squeeze(-1)
    assert torch.equal(got, by_heads(joined(old)) if heads_first else joined(old))


def test_where_as_many_pack_one_way_as_the_other_nothing_is_taken_until_the_caller_says_it() -> None:
    old = denoiser()
    with pytest.raises(PlanRefusedError, match="qkv_layout= says it"):
        tg.load(apart(), old.state_dict())
    rows = old["h"][1]["attn"].qkv.weight.squeeze(-1)
    for said, turn in (("flat", lambda x: x), ("per_head", by_heads)):
        new = apart()
        tg.load(new, old.state_dict(), qkv_layout=said, num_heads=HEADS)
        assert torch.equal(turn(joined(new)), rows)
    assert not tg.plan(denoiser("QKVAttention"), old.state_dict()).doubtful


def test_of_megatrons_own_names_nothing_tells_whether_rows_go_by_heads() -> None:
    block, fused = "transformer.layers.0", "attention.query_key_value"
    for table, is_open in (("embedding.word_embeddings", True), ("word_embeddings", False)):
        paths = [f"{block}.{fused}", f"{block}.attention.dense", f"{block}.input_layernorm", table]
        owners = Owners(dict.fromkeys(paths, False))
        found = packing_of(f"{block}.{fused}", owners)
        assert found is not None
        assert found.open == is_open


def test_an_output_layer_beside_the_embedding_tells_two_libraries_of_one_spelling_apart() -> None:
    inside = ["attention.wqkv", "attention.wo", "feed_forward.w2"]

    def owners(root: str, head: str) -> Owners:
        return Owners(
            dict.fromkeys([*(f"{root}layers.0.{name}" for name in inside), f"{root}tok_embeddings", head], False)
        )

    for root, head, groups in (("", "output", 1), ("model.", "model.output", 1), ("model.", "output", "heads")):
        found = packing_of(f"{root}layers.0.attention.wqkv", owners(root, head))
        assert found is not None
        assert found.groups == groups


def test_rows_that_go_query_key_value_row_after_row_are_taken_apart() -> None:
    parts = {name: nn.Conv2d(WIDTH, WIDTH, 3) for name in ("conv0", "conv1")}
    norms = {name: nn.GroupNorm(3, WIDTH) for name in ("norm0", "norm1", "norm2")}
    block = attention("UNetBlock", **parts, **norms, affine=nn.Linear(WIDTH, WIDTH), proj=nn.Linear(WIDTH, WIDTH))
    block.qkv = nn.Linear(WIDTH, 3 * WIDTH)
    split = {name: nn.Linear(WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v", "affine", "proj")}
    new = attention("UNetBlock", **{k: nn.Conv2d(WIDTH, WIDTH, 3) for k in parts}, **split)
    for name in norms:
        setattr(new, name, nn.GroupNorm(3, WIDTH))
    tg.load(new, block.state_dict())
    assert torch.equal(new.to_k.weight, block.qkv.weight[1::3])


@pytest.mark.parametrize("fused", ["here", "there"])
def test_rows_that_may_go_by_heads_are_asked_about_where_the_number_of_heads_is_unknown(fused: str) -> None:
    whole = network(attention("Own", None, qkv=linear(3), norm=nn.LayerNorm(WIDTH), proj=linear()), linear())
    parts = network(
        attention("Own", None, q=linear(), k=linear(), v=linear(), norm=nn.LayerNorm(WIDTH), proj=linear()), linear()
    )
    new, old = (whole, parts) if fused == "here" else (parts, whole)
    with pytest.raises(PlanRefusedError, match="qkv_layout="):
        tg.load(new, old.state_dict())
    tg.load(new, old.state_dict(), qkv_layout="flat")
    flat = torch.cat([getattr(parts["h"][0]["attn"], name).weight for name in "qkv"])
    assert torch.equal(whole["h"][0]["attn"].qkv.weight, flat)


def linear(times: int = 1) -> nn.Linear:
    return nn.Linear(WIDTH, times * WIDTH)


@pytest.mark.parametrize("kind", ["query_key_value", "linear_qkv"])
def test_parts_for_rows_that_go_head_by_head_ask_for_the_number_of_heads(kind: str) -> None:
    """The fused layer stayed fresh, as if the file had nothing for it, and its parts were unused."""
    parts = {f"{part}_proj": nn.Linear(WIDTH, WIDTH) for part in "qkv"}
    old = network(*(attention("A", None, **parts, dense=nn.Linear(WIDTH, WIDTH)) for _ in range(2)))
    new = network(
        *(attention("B", None, **{kind: nn.Linear(WIDTH, 3 * WIDTH)}, dense=nn.Linear(WIDTH, WIDTH)) for _ in range(2))
    )
    with pytest.raises(PlanRefusedError, match="how many heads there are isn't known; num_heads= tells") as found:
        tg.load(new, old.state_dict())
    assert set(found.value.objections[0].names) == {
        f"h.{n}.attn.{kind}.{role}" for n in (0, 1) for role in ("weight", "bias")
    }
    tg.load(new, old.state_dict(), num_heads=HEADS, on_doubt="take")
    joined = torch.cat([old.state_dict()[f"h.1.attn.{part}_proj.bias"] for part in "qkv"])
    assert torch.equal(new.state_dict()[f"h.1.attn.{kind}.bias"], by_heads(joined))
    tg.load(new, old.state_dict(), fresh=[f"h.*.attn.{kind}"])
