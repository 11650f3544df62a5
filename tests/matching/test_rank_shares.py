"""Ranks of a tensor-parallel checkpoint are joined in the order of their numbers, as the model's shapes show."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Shares
from torchgraft.core.specs import Network, Slot, TensorSpec
from torchgraft.matching import join_ranks


def test_rank_ten_comes_after_rank_nine():
    whole = torch.randn(24, 4)
    ranks = {f"rank_{n}": {"up.weight": part.clone()} for n, part in enumerate(whole.chunk(12))}
    model = nn.ModuleDict({"up": nn.Linear(4, 24, bias=False)})
    tg.load(model, dict(sorted(ranks.items())))
    assert torch.equal(model["up"].weight, whole)


@pytest.mark.parametrize(
    ("key", "share", "whole", "kind"),
    [
        ("norm.weight", (4,), (4,), Shares("replicated")),
        ("up.weight", (4, 4), (8, 4), Shares("rows")),
        ("down.weight", (4, 4), (4, 8), Shares("columns")),
        ("attn.qkv.weight", (6, 4), (12, 4), Shares("parts", (1, 1, 1))),
        ("attn.qkv.weight", (6, 4), (6, 8), Shares("columns")),
        ("attn.qkv.weight", (6, 4), (6, 4), Shares("replicated")),
    ],
)
def test_what_a_rank_holds_is_told_by_the_shape_of_the_whole(key, share, whole, kind):
    networks = [Network(f"rank_{n}", {key: TensorSpec(key, share, DType.F32)}, "model") for n in range(2)]
    ranks = join_ranks(networks, [Slot(spec=TensorSpec(key, whole, DType.F32))], {})
    assert ranks.shares == {key: kind}
    assert ranks.network.specs[key].shape == whole


STATED = [
    ("replicated", Shares("replicated", stated=True), (6, 4)),
    ("rows", Shares("rows", stated=True), (12, 4)),
    ("columns", Shares("columns", stated=True), (6, 8)),
    ("qkv", Shares("parts", (1, 1, 1), stated=True), (12, 4)),
    ("kv", Shares("parts", (1, 1), stated=True), (12, 4)),
]


@pytest.mark.parametrize(("kind", "share", "whole"), STATED)
def test_what_is_stated_of_a_tensor_counts(kind, share, whole):
    networks = [
        Network(f"rank_{n}", {"attn.qkv.weight": TensorSpec("attn.qkv.weight", (6, 4), DType.F32)}, "model")
        for n in range(2)
    ]
    slots = [Slot(spec=TensorSpec("attn.qkv.weight", (6, 4), DType.F32))]
    ranks = join_ranks(networks, slots, {"attn.*": kind})
    assert ranks.shares == {"attn.qkv.weight": share}
    assert ranks.network.specs["attn.qkv.weight"].shape == whole


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"attn.qkv.weight": "halves"}, "use replicated, rows, columns, qkv, kv or gate_up"),
        ({"mlp.*": "rows"}, "no tensor of the file is called 'mlp"),
    ],
)
def test_what_makes_no_sense_of_the_ranks_is_refused(stated, words):
    ranks = {f"rank_{n}": {"attn.qkv.weight": torch.randn(6, 4)} for n in range(2)}
    model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12, bias=False)})})
    with pytest.raises(tg.UsageError, match=words):
        tg.plan(model, ranks, tensor_parallel=stated)


def test_shares_of_fused_rows_are_joined_part_by_part_once_it_is_said():
    parts = [torch.randn(4, 4) for _ in range(3)]
    shares = [torch.cat([part.chunk(2)[rank] for part in parts]) for rank in range(2)]
    model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12, bias=False)})})
    file = {f"rank_{rank}": {"attn.qkv.weight": share} for rank, share in enumerate(shares)}
    with pytest.raises(tg.PlanRefusedError, match="or just the next rows: say which with tensor_parallel="):
        tg.load(model, file)
    tg.load(model, file, tensor_parallel={"attn.qkv.weight": "qkv"})
    assert torch.equal(model["attn"]["qkv"].weight, torch.cat(parts))
    tg.load(model, file, tensor_parallel={"attn.qkv.weight": "rows"})
    assert torch.equal(model["attn"]["qkv"].weight, torch.cat(shares))


D, COUNT = 8, 2


def attention(keys, *names):
    """Return layers of an attention whose queries have D rows, and keys and values so many each: fused, or apart."""

    def block():
        sizes = {"q_proj": D, "k_proj": keys, "v_proj": keys} if "q_proj" in names else {names[0]: D + 2 * keys}
        parts = {name: nn.Linear(D, rows) for name, rows in sizes.items()}
        return nn.ModuleDict({"attn": nn.ModuleDict(parts | {"dense": nn.Linear(D, D)})})

    return nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(2))})


def shared_out(model, cut):
    """Return what each rank holds of a model, as `cut` says by name: the sizes of parts, a dimension, or None."""

    def share(name, value, rank):
        how = next((how for pattern, how in cut.items() if pattern in name), None)
        if how is None:
            return value
        if isinstance(how, int):
            return value.chunk(COUNT, how)[rank].clone()
        return torch.cat([part.chunk(COUNT)[rank] for part in value.split(how)])

    state = model.state_dict()
    return {f"rank_{rank}": {name: share(name, value, rank) for name, value in state.items()} for rank in range(COUNT)}


@pytest.mark.parametrize("keys", [8, 4, 2])
@pytest.mark.parametrize("name", ["qkv", "query_key_value"])
def test_shares_of_queries_keys_and_values_are_joined_whatever_their_sizes(keys, name):
    """With fewer heads for keys the three parts aren't equal: what is beside them, or where they are cut, tells."""
    source = attention(keys, name)
    file = shared_out(source, {name: [D, keys, keys], "dense.weight": 1})
    same, apart = attention(keys, name), attention(keys, "q_proj")
    for model in (same, apart):
        with pytest.raises(tg.PlanRefusedError, match="doubt"):
            tg.load(model, file)
        tg.load(model, file, tensor_parallel={f"layers.*.{name}": "qkv"})
    for ours, theirs in zip(same["layers"], source["layers"], strict=True):
        assert torch.equal(ours["attn"][name].weight, theirs["attn"][name].weight)
    for ours, theirs in zip(apart["layers"], source["layers"], strict=True):
        whole = torch.cat([ours["attn"][part].weight for part in ("q_proj", "k_proj", "v_proj")])
        assert torch.equal(whole, theirs["attn"][name].weight)


def test_what_a_rank_holds_of_a_fused_tensor_is_not_taken_for_a_whole_part():
    """Four heads of two, and two for keys: a rank holds as many rows as all queries have."""
    file = shared_out(attention(4, "query_key_value"), {"query_key_value": [D, 4, 4], "dense.weight": 1})
    model = attention(4, "q_proj")
    assert not any(step.feeds for step in tg.plan(model, file, on_doubt="skip").steps if "q_proj" in step.slot.name)


def gated():
    return nn.ModuleDict({"w_in": nn.Linear(4, 12), "w_out": nn.Linear(6, 4)})


def test_gate_and_up_in_one_layer_are_doubt_and_joined_part_by_part_once_it_is_said():
    """The layer behind takes half of what the layer makes; ranks of Megatron-LM hold their share of each half."""
    source, model = gated(), gated()
    file = shared_out(source, {"w_in": [6, 6], "w_out.weight": 1})
    with pytest.raises(tg.PlanRefusedError, match="'gate_up' or 'rows'"):
        tg.load(model, file)
    tg.load(model, file, tensor_parallel={"w_in": "gate_up"})
    assert torch.equal(model["w_in"].weight, source["w_in"].weight)
    assert torch.equal(model["w_in"].bias, source["w_in"].bias)


def renamed(file, old, new):
    return {rank: {name.replace(old, new): value for name, value in state.items()} for rank, state in file.items()}


def test_renames_tell_the_shape_of_the_whole():
    source, model = (nn.ModuleDict({"up": nn.Linear(4, 8), "down": nn.Linear(8, 4)}) for _ in range(2))
    file = renamed(shared_out(source, {"up": 0, "down.weight": 1}), "up", "first")
    notes = tg.plan(model, file).notes
    assert any("how the ranks share first.weight isn't known" in note for note in notes)
    tg.load(model, file, rename={"first": "up"})
    assert torch.equal(model["up"].weight, source["up"].weight)
    assert torch.equal(model["down"].weight, source["down"].weight)


def test_a_matrix_of_another_name_is_in_doubt_and_left_fresh_where_doubt_is_skipped():
    """It has the shape of the model's, and may be one rank's rows of a larger one all the same."""
    source = nn.ModuleDict({"odd": nn.Linear(4, 6), "norm": nn.LayerNorm(4)})
    model = nn.ModuleDict({"head": nn.Linear(4, 6), "norm": nn.LayerNorm(4)})
    file = shared_out(source, {})
    assert not tg.plan(model, file, on_doubt="skip").by_name["head.weight"].feeds
    tg.load(model, file, tensor_parallel={"odd": "replicated"}, rename={"odd": "head"})
    assert torch.equal(model["head"].weight, source["odd"].weight)


def test_parts_that_do_not_go_into_the_rows_of_a_rank_are_in_doubt():
    file = {f"rank_{rank}": {"attn.qkv.weight": torch.randn(5, 4)} for rank in range(2)}
    model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 10, bias=False)})})
    with pytest.raises(tg.PlanRefusedError, match="doesn't go into the 5 rows of a rank"):
        tg.load(model, file, tensor_parallel={"attn.qkv": "qkv"})


@pytest.mark.parametrize(("kind", "held"), [("column", "rows"), ("RowParallel", "columns"), ("vocab_parallel", "rows")])
def test_layers_of_megatron_are_told_what_their_ranks_hold(kind, held):
    ranks = {f"rank_{n}": {"up.weight": torch.zeros(2, 4)} for n in range(2)}
    with pytest.raises(
        tg.UsageError, match=f"use .*rows, columns.*; ranks of a .*-parallel layer hold {held} of its weight"
    ):
        tg.plan(nn.ModuleDict({"up": nn.Linear(4, 4, bias=False)}), ranks, tensor_parallel={"up.weight": kind})
