"""What names, order and neighbours don't tell apart is doubt, and the doubt says what is missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty
from torchgraft.matching.judging.certainty import sureness
from torchgraft.matching.judging.judge import Pair, Rivalry
from torchgraft.matching.judging.reasons import BESIDE, BY_ORDER


def linears(*names, width=8):
    torch.manual_seed(len(names))
    model = nn.Module()
    for name in names:
        model.add_module(name, nn.Linear(width, width))
    return model


def test_equal_layers_under_unrelated_names_are_doubt_although_their_order_agrees():
    target, source = linears("ape", "bee", "cat", "dog", "elk"), linears("vex", "wry", "yaw", "zip", "hub")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="could change places"):
        tg.load(target, source.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    made = tg.plan(target, source.state_dict())
    assert {step.why.doubt for step in made.steps} == {BY_ORDER.text}


class Mixer(nn.Module):
    """Blocks of two convolutions and two norms of one width, in block order."""

    def __init__(self, depth, width=8):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.Conv2d(width, width, 3, groups=width), nn.BatchNorm2d(width)),
                nn.Conv2d(width, width, 1), nn.BatchNorm2d(width),
            ) for _ in range(depth)
        )  # fmt: skip


class Grouped(nn.Module):
    """The same layers, one list for each kind."""

    def __init__(self, depth, width=8):
        super().__init__()
        self.spatial = nn.ModuleList(nn.Conv2d(width, width, 3, groups=width) for _ in range(depth))
        self.spatial_bn = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
        self.channel = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.channel_bn = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize(("source", "target"), [(Mixer, Grouped), (Grouped, Mixer)])
def test_another_grouping_of_equal_norms_is_never_loaded_wrongly(source, target, depth):
    there, here = source(depth), target(depth)
    for tensor in there.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor)
    state = there.state_dict()
    order = {Mixer: ("0.0", "0.1", "1", "2"), Grouped: ("spatial", "spatial_bn", "channel", "channel_bn")}

    def name(kind, part, at):
        return f"{kind}.{at}" if source is Mixer else f"blocks.{at}.{part}"

    def origin(kind, part, at):
        return f"blocks.{at}.{part}" if source is Mixer else f"{kind}.{at}"

    right = {
        name(kind, part, at): origin(kind, part, at)
        for part, kind in zip(order[Mixer], order[Grouped], strict=True) for at in range(depth)
    }  # fmt: skip
    made = tg.plan(here, state)
    for step in made.steps:
        if step.feeds and step.certainty is not Certainty.DOUBT:
            assert step.feeds[0].key.rpartition(".")[0] == right[step.slot.name.rpartition(".")[0]]


def test_an_inserted_layer_among_equal_ones_says_that_one_stays_free_beside():
    def stack(depth):
        return nn.Sequential(*(nn.Linear(6, 6) for _ in range(depth)), nn.Linear(6, 3))

    made = tg.plan(stack(4), stack(3).state_dict())
    assert BESIDE.text in {step.why.doubt for step in made.doubtful}


class Layer(nn.Module):
    def __init__(self, names, width=8):
        super().__init__()
        for name in names:
            self.add_module(name, nn.LayerNorm(width) if "n" in name.lower()[:1] else nn.Linear(width, width))


def tower(stack, names, depth):
    model = nn.Module()
    model.add_module(stack, nn.ModuleList(Layer(names) for _ in range(depth)))
    return model


@pytest.mark.parametrize("order", [list, sorted], ids=["as registered", "sorted by name"])
@pytest.mark.parametrize("depths", [(6, 3), (3, 6), (4, 4), (5, 2), (2, 5)])
def test_layers_of_another_depth_and_other_names_keep_their_numbers(depths, order):
    source = tower("encoder", ("query", "key", "value", "out_proj", "norm1", "norm2"), depths[0])
    target = tower("blocks", ("q_proj", "k_proj", "v_proj", "to_out", "norm_1", "norm_2"), depths[1])
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "to_out": "out_proj"}
    parts |= {"norm_1": "norm1", "norm_2": "norm2"}
    state = source.state_dict()
    made = tg.plan(target, {name: state[name] for name in order(state)})
    filled = [step for step in made.steps if step.feeds]
    assert len(filled) == 12 * min(depths)
    for step in filled:
        _, at, part, leaf = step.slot.name.split(".")
        assert step.feeds[0].key == f"encoder.{at}.{parts[part]}.{leaf}"
    assert not made.doubtful


def test_what_is_left_over_elsewhere_is_no_part_of_a_layer_that_the_file_lacks():
    names = ("query", "key", "value", "out_proj", "norm1", "norm2")
    source, target = tower("encoder", names, 3), tower("blocks", names, 5)
    source.pooler = nn.Linear(8, 8)
    made = tg.plan(target, source.state_dict())
    assert {u.spec.name for u in made.unused} == {"pooler.weight", "pooler.bias"}
    assert {step.slot.name.split(".")[1] for step in made.fresh} == {"3", "4"}
    assert not made.doubtful


class Pooled(nn.Module):
    """Blocks of norms and layers of one width, and a last norm under a name of one's own."""

    def __init__(self, last, head, classes=0):
        super().__init__()
        self.stem = nn.Linear(12, 8)
        self.blocks = nn.ModuleList(nn.ModuleDict({"norm1": nn.LayerNorm(8), "fc": nn.Linear(8, 8)}) for _ in range(3))
        self.add_module(last, nn.LayerNorm(8))
        if classes:
            self.add_module(head, nn.Linear(8, classes))


@pytest.mark.parametrize("prefix", ["", "encoder_q."])
@pytest.mark.parametrize("names", [("norm", "fc_norm"), ("fc_norm", "norm"), ("norm", "norm_pre")])
def test_a_norm_of_another_name_in_a_file_of_the_same_names_is_another_norm(prefix, names):
    source, target = Pooled(names[0], ""), Pooled(names[1], "head", 5)
    nn.init.normal_(getattr(source, names[0]).weight)
    saved = {prefix + k: v for k, v in source.state_dict().items()}
    made = tg.plan(target, saved)
    assert {s.slot.name.partition(".")[0] for s in made.fresh} == {names[1], "head"}
    assert (f"{names[1]}.weight",) in {u.similar[:1] for u in made.unused}


def test_another_spelling_of_the_same_words_is_the_same_norm_still():
    source, target = Pooled("layernorm", ""), Pooled("norm", "")
    nn.init.normal_(source.layernorm.weight)
    tg.load(target, source.state_dict())
    assert torch.equal(target.norm.weight, source.layernorm.weight)


@pytest.mark.parametrize(
    ("rare", "in_order", "sure"), [(2 / 3, True, Certainty.DOUBT), (2 / 3, False, None), (0.4, True, None)]
)
def test_a_leftover_of_another_name_is_doubt_where_the_two_sides_have_three_of_its_shape(rare, in_order, sure):
    rivalry = Rivalry(unrivalled=True, margin=1.0, runner_up=1)
    pair = Pair(
        source=0, target=0, fits=True, named=False, name=0.2, in_order=in_order, listed=True, rare=rare, rivalry=rivalry
    )
    found = sureness(pair, familiar=True, unordered=False)
    assert (found and found.certainty) is sure


@pytest.mark.parametrize(
    ("exchangeable", "told_apart", "sure"),
    [(True, False, Certainty.DOUBT), (False, False, Certainty.LIKELY), (True, True, Certainty.CERTAIN)],
)
def test_words_around_them_do_not_tell_which_is_which_of_two_layers_of_one_block(exchangeable, told_apart, sure):
    rivalry = Rivalry(unrivalled=True, margin=1.0, runner_up=1, told_apart=told_apart, exchangeable=exchangeable)
    pair = Pair(
        source=0, target=0, fits=True, named=False, name=0.6, block=1.0, tail=1.0, in_order=True, listed=True, rare=0.4, rivalry=rivalry
    )  # fmt: skip
    found = sureness(pair, familiar=False, unordered=False)
    assert found is not None
    assert found.certainty is sure


class Texts(nn.Module):
    """An encoder of texts in words of its own, with something more beside it."""

    def __init__(self, more):
        super().__init__()
        self.tok, self.pos, self.norm = nn.Embedding(50, 12), nn.Embedding(16, 12), nn.LayerNorm(12)
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.more = more


def bert():
    """What BERT keeps, in names of transformers: its table of two kinds of tokens has the shape of a head for two classes."""
    tables = {"word": 50, "position": 16, "token_type": 2}
    file = {f"embeddings.{name}_embeddings.weight": torch.randn(rows, 12) for name, rows in tables.items()}
    sizes = {"attention.self.query": (12, 12), "attention.self.key": (12, 12), "attention.self.value": (12, 12),
             "attention.output.dense": (12, 12), "attention.output.LayerNorm": (12,), "intermediate.dense": (24, 12),
             "output.dense": (12, 24), "output.LayerNorm": (12,)}  # fmt: skip
    modules = {"embeddings.LayerNorm": (12,)}
    modules |= {f"encoder.layer.{i}.{name}": size for i in range(2) for name, size in sizes.items()}
    for name, size in modules.items():
        file |= {f"{name}.weight": torch.randn(size), f"{name}.bias": torch.randn(size[0])}
    return file


@pytest.mark.parametrize(
    "more",
    [nn.Linear(12, 2), nn.Linear(12, 2, bias=False), nn.Embedding(2, 12), nn.Parameter(torch.zeros(2, 12))],
    ids=["head", "head without bias", "table", "prompt"],
)
def test_what_stands_beside_all_lists_is_not_paired_for_having_a_shape_alone(more):
    with pytest.raises(tg.PlanRefusedError, match="its shape fits, its name doesn't") as caught:
        tg.load(Texts(more), bert())
    assert [o.names for o in caught.value.objections] == [
        ("more" if isinstance(more, nn.Parameter) else "more.weight",)
    ]
    assert not tg.load(Texts(more), bert(), fresh=["more"]).plan.doubtful
