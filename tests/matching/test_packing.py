"""Fused projections whose rows go head by head, in another order of parts, or with grouped queries."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Certainty
from torchgraft.matching.tables.packing import FUSED, Owners, packing_of


class Attention(nn.Module):
    """Attention with the projections of the given names and widths."""

    def __init__(self, width: int, heads: int | None, **rows: int) -> None:
        super().__init__()
        if heads:
            self.num_heads = heads
        for name, size in rows.items():
            setattr(self, name, nn.Linear(width, size))


class Net(nn.Module):
    """Blocks of attention and a feed-forward part, under names of one's own."""

    def __init__(self, block: str, attention: str, heads: int | None, **rows: int) -> None:
        super().__init__()
        made = [nn.ModuleDict({attention: Attention(24, heads, **rows), "mlp": nn.Linear(24, 40)}) for _ in range(2)]
        setattr(self, block, nn.ModuleList(made))


def head_by_head(rows: torch.Tensor, groups: int, sizes: tuple[int, ...]) -> list[torch.Tensor]:
    """Cut rows that go group by group into parts, the way the models themselves view them."""
    grouped = rows.reshape(groups, -1, *rows.shape[1:])
    unit = grouped.shape[1] // sum(sizes)
    return [part.reshape(-1, *rows.shape[1:]) for part in grouped.split([n * unit for n in sizes], 1)]


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
def test_rows_head_by_head_are_taken_apart_with_the_models_own_number_of_heads(heads: int, key_heads: int) -> None:
    kv = 24 * key_heads // heads
    old = Net("h", "attn", None, query_key_value=24 + 2 * kv, dense=24)
    new = Net("blocks", "attention", heads, q_proj=24, k_proj=kv, v_proj=kv, o_proj=24)
    tg.load(new, old.state_dict())
    parts = head_by_head(old.h[1]["attn"].query_key_value.weight, key_heads, (heads // key_heads, 1, 1))
    for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
        assert torch.equal(getattr(new.blocks[1]["attention"], name).weight, part)


@pytest.mark.parametrize("biases", [False, True])
def test_a_way_there_and_back_changes_nothing(biases: bool) -> None:  # noqa: FBT001
    old = Net("h", "attn", 4, query_key_value=72, dense=24)
    if not biases:
        for block in old.h:
            block["attn"].query_key_value.bias = None
    between = Net("blocks", "attention", 4, qkv=72, proj=24)
    if not biases:
        for block in between.blocks:
            block["attention"].qkv.bias = None
    again = Net("h", "attn", 4, query_key_value=72, dense=24)
    if not biases:
        for block in again.h:
            block["attn"].query_key_value.bias = None
    plan = tg.load(between, old.state_dict()).plan
    assert not torch.equal(between.blocks[0]["attention"].qkv.weight, old.h[0]["attn"].query_key_value.weight)
    tg.load(again, between.state_dict())
    assert all(torch.equal(again.state_dict()[k], v) for k, v in old.state_dict().items())
    step = plan.by_slot["blocks.0.attention.qkv.weight"]
    assert step.certainty is Certainty.LIKELY
    assert "GPT-NeoX" in step.why.text


def test_rows_in_the_order_of_four_ranks_are_taken_apart() -> None:
    """CodeGen in transformers keeps the rows of each of four ranks together, values before keys."""

    def net(**rows: int) -> nn.Module:
        def block() -> nn.Module:
            mlp = nn.ModuleDict({"fc_in": nn.Linear(24, 96), "fc_out": nn.Linear(96, 24)})
            return nn.ModuleDict({"attn": Attention(24, None, out_proj=24, **rows), "mlp": mlp})

        return nn.ModuleDict({"h": nn.ModuleList([block() for _ in range(2)])})

    old, new = net(qkv_proj=72), net(q_proj=24, k_proj=24, v_proj=24)
    tg.load(new, old.state_dict())
    parts = head_by_head(old["h"][1]["attn"].qkv_proj.weight, 4, (1, 1, 1))
    for name, part in zip(("q_proj", "v_proj", "k_proj"), parts, strict=True):
        assert torch.equal(getattr(new["h"][1]["attn"], name).weight, part)


def test_query_heads_that_no_number_of_key_heads_goes_into_are_left_alone() -> None:
    old, new = (
        Net("h", "attn", None, query_key_value=56, dense=24),
        Net("blocks", "attention", 6, q=24, k=16, v=16, o=24),
    )
    assert {f"blocks.0.attention.{part}.weight" for part in "qkv"} <= {s.slot.name for s in tg.plan(new, old).fresh}


def test_without_a_number_of_heads_the_load_is_refused_and_the_source_model_tells() -> None:
    old, new = (
        Net("h", "attn", 4, query_key_value=72, dense=24),
        Net("blocks", "attention", None, q=24, k=24, v=24, o=24),
    )
    with pytest.raises(tg.PlanRefusedError, match="num_heads= or source_model= tells"):
        tg.load(new, old.state_dict())
    parts = {f"blocks.{n}.attention.{part}.{role}" for n in (0, 1) for part in "qkv" for role in ("weight", "bias")}
    assert {step.slot.name for step in tg.plan(new, old.state_dict()).doubtful} == parts
    assert parts <= {s.slot.name for s in tg.plan(new, old.state_dict(), on_doubt="skip").fresh}
    told = tg.plan(new, old.state_dict(), num_heads=4)
    assert not told.fresh
    assert not told.notes
    assert not tg.plan(new, old.state_dict(), source_model=old).fresh
    assert not tg.plan(new, old).fresh


def test_fused_rows_that_a_model_has_no_parts_for_are_only_remarked_upon() -> None:
    old, new = Net("h", "attn", 4, query_key_value=72, dense=24), Net("h", "attn", None, dense=24)
    report = tg.load(new, old.state_dict())
    assert not report.plan.doubtful
    assert "num_heads= or source_model= tells" in " ".join(report.plan.notes)


def test_names_shared_by_two_conventions_are_told_apart_by_what_stands_beside() -> None:
    owners = Owners(dict.fromkeys(("h.0.attn.out_proj", "h.0.mlp.fc_in"), False))
    assert packing_of("h.0.attn.qkv_proj", owners).parts == ("q", "v", "k")
    assert packing_of("h.0.attn.qkv_proj", Owners({"h.0.attn.o_proj": False})).parts == ("q", "k", "v")
    assert packing_of("h.0.attn.proj", owners) is None


def test_matrices_stored_input_first_are_gpt2s_and_others_under_that_name_are_contested() -> None:
    old = Net("h", "attn", None, c_attn=72, c_proj=24)
    new = Net("blocks", "attn", None, q_proj=24, k_proj=24, v_proj=24, out_proj=24)
    saved = old.state_dict()
    plan = tg.plan(new, saved)
    steps = [plan.by_slot[f"blocks.1.attn.{name}_proj.{role}"] for name in "qkv" for role in ("weight", "bias")]
    assert {s.certainty for s in steps} == {Certainty.LIKELY}
    assert "GPTBigCode in transformers" in steps[0].why.text
    turned = {k: v.T.contiguous() if v.ndim == 2 and ".attn." in k else v for k, v in saved.items()}
    plan = tg.plan(new, turned)
    assert {plan.by_slot[s.slot.name].certainty for s in steps} == {Certainty.CERTAIN}


@pytest.mark.parametrize(
    ("name", "heads", "sure"),
    [
        ("c_attn", 1, Certainty.CERTAIN),
        ("c_attn", 2, Certainty.LIKELY),
        ("c_attn", None, Certainty.LIKELY),
        ("query_key_value", 1, Certainty.CERTAIN),
        ("query_key_value", 2, Certainty.LIKELY),
        ("qkv_proj", 1, Certainty.LIKELY),
        ("qkv_linear", 2, Certainty.LIKELY),
    ],
)
def test_with_one_head_it_does_not_matter_whether_parts_repeat_in_each_head(
    name: str, heads: int | None, sure: Certainty
) -> None:
    old = Net("h", "attn", None, q_proj=24, k_proj=24, v_proj=24, out_proj=24)
    new = Net("h", "attn", heads, **{name: 72}, out_proj=24)
    assert tg.plan(new, old.state_dict()).by_slot[f"h.0.attn.{name}.weight"].certainty is sure


def test_every_convention_says_where_it_can_be_read() -> None:
    assert all(packing.source for known in FUSED.values() for packing in known)
    assert all(not known[-1].beside and not known[-1].turned for known in FUSED.values())


def test_only_a_module_can_be_the_source_model() -> None:
    with pytest.raises(UsageError, match="source_model is a dict"):
        tg.plan(nn.Linear(2, 2), {}, source_model={})


def heads_first(flat: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows that go part by part (q, k, v) in the order head by head, as a model would view them."""
    parts = flat.reshape(3, heads, -1, *flat.shape[1:])
    return parts.transpose(0, 1).reshape(flat.shape)


@pytest.mark.parametrize("said", ["per_head", {"attn.qkv": "per_head"}, {"h.*.attn.qkv.*": "per_head"}])
@pytest.mark.parametrize("heads", [2, 4])
def test_the_caller_says_that_the_files_rows_go_head_by_head(said: object, heads: int) -> None:
    old, new = Net("h", "attn", None, qkv=72, proj=24), Net("h", "attn", None, qkv=72, proj=24)
    if isinstance(said, dict) and "attn.qkv" in said:
        said = {f"h.{n}.attn.qkv": "per_head" for n in range(2)}
    saved = {k: heads_first(v, heads) if "qkv" in k else v for k, v in old.state_dict().items()}
    report = tg.load(new, saved, qkv_layout=said, num_heads=heads)
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in new.state_dict().items())
    assert "as you said" in str(report)


def test_the_caller_says_that_the_models_rows_go_head_by_head() -> None:
    old = Net("h", "attn", None, q=24, k=24, v=24, proj=24)
    new = Net("h", "attn", None, fused=72, proj=24)
    layout = {f"h.{n}.attn.fused": "per_head" for n in range(2)}
    tg.load(new, old.state_dict(), qkv_layout=layout, num_heads=3)
    apart = torch.cat([getattr(old.h[1]["attn"], name).weight for name in "qkv"])
    assert torch.equal(new.h[1]["attn"].fused.weight, heads_first(apart, 3))


def test_a_name_that_is_usual_for_rows_head_by_head_can_be_said_to_hold_them_part_by_part() -> None:
    old = Net("h", "attn", None, query_key_value=72, dense=24)
    new = Net("h", "attn", None, q_proj=24, k_proj=24, v_proj=24, o_proj=24)
    tg.load(new, old.state_dict(), qkv_layout="flat")
    assert torch.equal(new.h[0]["attn"].k_proj.weight, old.h[0]["attn"].query_key_value.weight[24:48])


def test_of_two_fused_sides_the_one_with_the_usual_name_is_meant() -> None:
    old, new = Net("h", "attn", None, qkv=72, proj=24), Net("h", "attn", None, query_key_value=72, dense=24)
    tg.load(new, old.state_dict(), qkv_layout="per_head", num_heads=2)
    assert torch.equal(new.h[1]["attn"].query_key_value.weight, heads_first(old.h[1]["attn"].qkv.weight, 2))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"qkv_layout": "per_head"}, "needs num_heads"),
        ({"qkv_layout": "by_head", "num_heads": 2}, "use one of 'flat', 'per_head'"),
        ({"qkv_layout": {"attn.qvk": "flat"}}, "no tensor is called 'attn.qvk'"),
        ({"num_heads": 0}, "num_heads=0"),
    ],
)
def test_what_is_said_of_fused_rows_must_make_sense(asked: dict, said: str) -> None:
    new = Net("h", "attn", None, qkv=72, proj=24)
    with pytest.raises(UsageError, match=said):
        tg.plan(new, new.state_dict(), **asked)


def test_a_layout_of_nothing_fused_is_an_error() -> None:
    new = Net("h", "attn", None, q=24, k=24, v=24, proj=24)
    with pytest.raises(UsageError, match="neither side has fused q, k, v"):
        tg.plan(new, new.state_dict(), qkv_layout="flat")


def test_a_part_that_the_file_lacks_leaves_the_whole_fused_tensor_fresh() -> None:
    old = Net("h", "attn", None, q_proj=24, k_proj=24, v_proj=24, o_proj=24)
    new = Net("h", "attn", None, qkv_proj=72, o_proj=24)
    before = new.h[1]["attn"].qkv_proj.weight.detach().clone()
    saved = {k: v for k, v in old.state_dict().items() if k != "h.1.attn.v_proj.weight"}
    report = tg.load(new, saved)
    assert torch.equal(new.h[1]["attn"].qkv_proj.weight, before)
    assert "only q and k of the fused tensor" in str(report)
    assert {u.spec.name for u in report.plan.unused} == {"h.1.attn.q_proj.weight", "h.1.attn.k_proj.weight"}


def test_beside_a_network_whose_gate_is_fused_rows_go_part_by_part() -> None:
    def specs(rows: int) -> dict[str, torch.Tensor]:
        shapes = {"self_attention.query_key_value": (72, 24), "self_attention.dense": (24, 24)}
        shapes |= {"mlp.dense_h_to_4h": (rows, 24), "mlp.dense_4h_to_h": (24, 40)}
        return {f"layers.{at}.{name}.weight": torch.randn(shape) for at in range(2) for name, shape in shapes.items()}

    new = Net("blocks", "attention", 4, q_proj=24, k_proj=24, v_proj=24, o_proj=24)
    for rows, told in ((80, "as in ChatGLM"), (40, "as in GPT-NeoX")):
        plan = tg.plan(new, specs(rows), on_doubt="take")
        assert told in plan.by_slot["blocks.1.attention.k_proj.weight"].why.text


@pytest.mark.parametrize("gate", ["mlp.gate_proj", "mlp.experts.0.gate_proj"])
def test_beside_a_network_with_a_gate_of_its_own_rows_go_part_by_part(gate: str) -> None:
    shapes = {"attention.query_key_value": (72, 24), "attention.dense": (24, 24), gate: (40, 24)}
    file = {f"layers.{at}.{name}.weight": torch.randn(shape) for at in range(2) for name, shape in shapes.items()}
    new = Net("layers", "self_attn", 4, q_proj=24, k_proj=24, v_proj=24, o_proj=24)
    plan = tg.plan(new, file, on_doubt="take")
    assert "as in Ling" in plan.by_slot["layers.1.self_attn.v_proj.weight"].why.text


@pytest.mark.parametrize(
    ("beside", "table", "told"),
    [
        ("mlp.fc1", "patch_embedding", "as in the images' part of CogVLM"),
        ("mlp.dense_h_to_4h", "layers.word_embeddings", "as in GPT-NeoX"),
        ("mlp.dense_h_to_4h", "word_embeddings", "as in GLM"),
        ("mlp.dense_h_to_4h", "embed_in", "as in GPT-NeoX"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "transformer."])
def test_what_stands_around_says_whether_rows_go_part_by_part(beside: str, table: str, told: str, wrapper: str) -> None:
    shapes = {"attention.query_key_value": (72, 24), "attention.dense": (24, 24), beside: (40, 24)}
    file = {f"{wrapper}{table}.weight": torch.randn(50, 24)}
    file |= {
        f"{wrapper}layers.{at}.{name}.weight": torch.randn(shape) for at in range(2) for name, shape in shapes.items()
    }
    new = Net("layers", "self_attn", 4, q_proj=24, k_proj=24, v_proj=24, o_proj=24)
    plan = tg.plan(new, file, on_doubt="take")
    assert told in plan.by_slot["layers.1.self_attn.v_proj.weight"].why.text


@pytest.mark.parametrize(("width", "refused"), [(6, True), (8, False)])
def test_the_parts_of_one_attention_come_from_one_block(width: int, refused: bool) -> None:  # noqa: FBT001
    """Its keys are of another width in the file, and those of a removed block would fit."""

    def block(keys: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {"cross": nn.MultiheadAttention(8, 2, kdim=keys, vdim=keys), "own": nn.MultiheadAttention(8, 2)}
        )

    old, new = nn.ModuleList([block(width), block(width)]), nn.ModuleList([block(8)])
    plan = tg.plan(new, old.state_dict())
    assert (plan.by_slot["0.cross.in_proj_weight"].certainty is Certainty.DOUBT) is refused
    assert refused is any("several blocks" in objection.text for objection in plan.objections)


@pytest.mark.parametrize(("ours", "certainty"), [("w13_weight", Certainty.LIKELY), ("gate_up_proj", Certainty.CERTAIN)])
def test_stacks_of_gate_and_up_are_certain_under_one_name_alone(ours: str, certainty: Certainty) -> None:
    def net(stack: str) -> nn.Module:
        experts = nn.Module()
        experts.register_parameter(stack, nn.Parameter(torch.randn(3, 16, 6)))
        experts.register_parameter("down_proj", nn.Parameter(torch.randn(3, 6, 8)))
        return nn.ModuleDict({"router": nn.Linear(6, 3), "experts": experts})

    plan = tg.plan(net("gate_up_proj"), net(ours).state_dict())
    assert plan.by_name["experts.gate_up_proj"].certainty is certainty


def with_fused(name: str, parts: str) -> nn.ModuleDict:
    """Return three blocks whose projections are fused under `name`, in the order of its letters."""

    def attention() -> nn.ModuleDict:
        single = {part: nn.Linear(6, 6) for part in "qkv" if part not in parts}
        return nn.ModuleDict({**single, "proj": nn.Linear(6, 6), name: nn.Linear(6, 6 * len(parts))})

    return nn.ModuleDict({"blocks": nn.ModuleList(nn.ModuleDict({"attn": attention()}) for _ in range(3))})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("kqv", "qkv"), ("qkv", "vqk"), ("vk", "kv"), ("to_kv", "to_vk"), ("qvk", "kqv"), ("kqv_proj", "qkv_proj")],
)
def test_rows_follow_the_letters_of_the_names(ours, theirs):
    letters, others = (name.replace("to_", "").replace("_proj", "") for name in (ours, theirs))
    state = with_fused(ours, letters).state_dict()
    model = with_fused(theirs, others)
    report = tg.load(model, state)
    fused = f"blocks.1.attn.{ours}.weight"
    rows = dict(zip(letters, state[fused].chunk(len(letters)), strict=True))
    assert torch.equal(model.state_dict()[f"blocks.1.attn.{theirs}.weight"], torch.cat([rows[one] for one in others]))
    assert report.plan.by_name[f"blocks.1.attn.{theirs}.weight"].certainty is Certainty.LIKELY


class FalconAttention(Attention):
    """Keeps its rows head by head, as transformers' class of this name does."""


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (4, 1)])
def test_rows_that_llama_cpp_puts_part_by_part_go_back_head_by_head(heads: int, key_heads: int) -> None:
    rows = 24 + 2 * (24 // heads) * key_heads
    layers = {"attn_qkv": (rows, 24), "attn_output": (24, 24), "ffn_up": (40, 24)}
    file = {f"blk.{n}.{name}.weight": torch.randn(shape) for n in range(2) for name, shape in layers.items()}
    attention = FalconAttention(24, heads, query_key_value=rows, dense=24)
    mlp = nn.ModuleDict({"up_proj": nn.Linear(24, 40)})
    block = nn.ModuleDict({"self_attention": attention, "mlp": mlp})
    target = nn.ModuleDict({"h": nn.ModuleList([block, copy.deepcopy(block)])})
    tg.load(target, file)
    fused = target["h"][1]["self_attention"].query_key_value.weight
    assert torch.equal(
        torch.cat(head_by_head(fused, key_heads, (heads // key_heads, 1, 1))), file["blk.1.attn_qkv.weight"]
    )


def test_two_fused_layers_of_one_module_have_parts_of_their_own():
    """What names alone tell apart is no certain pair: `c_attn` filled `c_attention_b`, because both had parts `q`, `k` and `v`."""

    def net(*names):
        inside = {name: nn.Linear(8, 24) for name in names} | {"c_proj": nn.Linear(8, 8)}
        return nn.ModuleDict({"attn": nn.ModuleDict(inside), "fc": nn.Linear(8, 5)})

    plan = tg.plan(net("c_attention", "c_attention_b"), dict(sorted(net("c_attn").state_dict().items())))
    fed = {step.slot.name: step.certainty for step in plan.steps if step.feeds and "c_attention" in step.slot.name}
    assert fed.keys().isdisjoint({"attn.c_attention_b.weight", "attn.c_attention_b.bias"})
    assert set(fed.values()) == {Certainty.DOUBT}


def test_a_layer_is_not_cut_by_its_shape_where_its_module_has_the_parts_by_name():
    def net(blocks, *more):
        def block(number):
            extra = {name: nn.Linear(8, 24) for name in more if number == 0}
            inside = {"c_attn": nn.Linear(8, 24), "c_proj": nn.Linear(8, 8)} | extra
            return nn.ModuleDict({"attn": nn.ModuleDict(inside), "fc": nn.Linear(8, 16)})

        return nn.ModuleDict({"h": nn.ModuleList([block(number) for number in range(blocks)])})

    plan = tg.plan(nn.ModuleDict({"net": net(3)}), net(2, "se").state_dict())
    assert not [step.slot.name for step in plan.steps if step.feeds and step.slot.name.startswith("net.h.2.")]
