"""A prefix is taken off or put on only where that explains names and shapes of both sides."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Certainty
from torchgraft.matching.names.prefixes import naming_of

PARTS = ("attn.q", "attn.k", "mlp.up", "mlp.down")


def leaves(shapes):
    return [Leaf(name=n, shape=s, dtype=DType.F32, keys=(n,), order=at) for at, (n, s) in enumerate(shapes.items())]


def network(prefix, width, parts=PARTS):
    return {f"{prefix}{part}.weight": (width, width) for part in parts}


def test_a_prefix_that_fits_several_parts_of_the_model_names_all_of_them():
    naming = naming_of(leaves(network("", 4)), leaves(network("rgb.", 4) | network("depth.", 4)))
    assert set(naming.homes) == {"rgb.", "depth."}


def test_parts_whose_shapes_differ_are_no_home():
    naming = naming_of(leaves(network("", 4)), leaves(network("rgb.", 4) | network("depth.", 8)))
    assert naming.homes == ()
    assert naming.prefixes == (("", "rgb."),)


def test_prefixes_of_the_file_that_would_fill_the_same_are_rivals():
    naming = naming_of(leaves(network("student.", 4) | network("teacher.", 4)), leaves(network("", 4)))
    assert naming.prefixes[0] == ("student.", "")
    assert naming.rivals == ("teacher.",)


def test_a_rule_most_of_whose_pairs_differ_in_shape_is_none():
    assert naming_of(leaves(network("old.", 4)), leaves(network("new.", 8))).pairs == {}


def test_a_rule_that_explains_less_than_half_of_a_part_is_none():
    """Two blocks that share a few words may be two things: `reader.mlp` and `writer.mlp`."""
    few = PARTS[:2]
    ours, theirs = (
        network(side, 4, [*few, *(f"{word}_{name}.proj" for name in "abcde")])
        for side, word in (("reader.", "reads"), ("writer.", "writes"))
    )
    assert ("reader.", "writer.") not in naming_of(leaves(ours), leaves(theirs)).prefixes
    assert ("reader.", "writer.") in naming_of(
        leaves(network("reader.", 4, few)), leaves(network("writer.", 4, few))
    ).prefixes


def test_a_rule_never_changes_the_number_of_a_layer():
    naming = naming_of(leaves(network("layers.1.", 4)), leaves(network("layers.2.", 4)))
    assert naming.pairs == {}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_norm_that_goes_into_another_part_of_its_module_is_only_likely_the_same(fresh):
    """What else the module holds stays where it is: nothing but `norm` says that the two are one."""

    def net(inside, head):
        part = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("q", "k", "v")})
        if inside:
            part[inside] = nn.ModuleDict({"norm": nn.LayerNorm(4)})
        else:
            part["norm"] = nn.LayerNorm(4)
        return nn.ModuleDict({"part": part, head: nn.Linear(4, 9 if head == "head" else 7)})

    head = "output" if fresh else "head"
    for source, target in (("", "cross"), ("cross", "")):
        plan = tg.plan(net(target, head), net(source, "head").state_dict(), on_doubt="take", min_coverage=0.0)
        found = {step.slot.name: step.certainty for step in plan.steps if ".norm." in step.slot.name and step.feeds}
        assert found
        assert set(found.values()) == {Certainty.LIKELY}


@pytest.mark.parametrize("into", [True, False])
def test_a_norm_beside_a_merger_is_not_its_norm_where_another_one_is_left(into):
    """Mistral's files call the norm of the language model `norm`, and that of the projector otherwise."""
    flat = {
        "merger.weight": (8, 4),
        "norm.weight": (4,),
        "layers.0.weight": (4, 4),
        "layers.1.weight": (4, 4),
        "pre_norm.weight": (4,),
    }
    deep = {
        "projector.merger.weight": (8, 4),
        "projector.norm.weight": (4,),
        "language.blocks.0.fc.weight": (4, 4),
        "language.blocks.1.fc.weight": (4, 4),
        "language.norm.weight": (4,),
    }
    file, model = (flat, deep) if into else (deep, flat)
    found = naming_of(leaves(file), leaves(model)).pairs
    assert ("norm.weight" if into else "projector.norm.weight") not in found
    assert found[next(name for name in file if "merger" in name)] == next(name for name in model if "merger" in name)


@pytest.mark.parametrize("inside", ["", "roberta."])
@pytest.mark.parametrize("head", ["classifier", "head"])
def test_one_layer_with_a_last_name_in_common_is_no_prefix(inside, head):
    """A language model's pooler isn't the first layer of a classifier, though both are called `dense`."""

    class Body(nn.Module):
        def __init__(self, *, pooler):
            super().__init__()
            self.embeddings = nn.Embedding(9, 6)
            self.layer = nn.ModuleList(
                nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)}) for _ in range(2)
            )
            if pooler:
                self.pooler = nn.ModuleDict({"dense": nn.Linear(6, 6)})

    body = Body(pooler=True).state_dict()
    model = nn.ModuleDict(
        {"roberta": Body(pooler=False), head: nn.ModuleDict({"dense": nn.Linear(6, 6), "out_proj": nn.Linear(6, 9)})}
    )
    plan = tg.plan(model, {inside + name: value for name, value in body.items()})
    (step,) = (s for s in plan.steps if s.slot.name == f"{head}.dense.weight")
    assert not step.feeds
    assert any(step.slot.name in one.similar for one in plan.unused)


def test_layers_behind_akin_names_still_have_a_prefix():
    naming = naming_of(
        leaves({"x_embedder.proj.weight": (4, 3), "x_embedder.proj.bias": (4,)}),
        leaves({"pos_embed.proj.weight": (4, 3), "pos_embed.proj.bias": (4,)}),
    )
    assert naming.prefixes == (("x_embedder.", "pos_embed."),)


@pytest.mark.parametrize("into", [True, False])
def test_a_last_norm_is_not_that_of_a_head_where_another_is_called_so_in_other_words(into):
    """CogVideoX' `mixins.final_layer.norm_final` is `norm_out.norm`, and `transformer.final_layernorm` is `norm_final`."""
    deep = {
        "transformer.layers.0.fc.weight": (4, 4),
        "transformer.layers.1.fc.weight": (4, 4),
        "transformer.final_layernorm.weight": (4,),
        "mixins.final_layer.norm_final.weight": (4,),
        "mixins.final_layer.linear.weight": (3, 4),
    }
    flat = {
        "blocks.0.fc.weight": (4, 4),
        "blocks.1.fc.weight": (4, 4),
        "norm_final.weight": (4,),
        "norm_out.norm.weight": (4,),
        "proj_out.weight": (3, 4),
    }
    file, model = (flat, deep) if into else (deep, flat)
    assert {"norm_final.weight", "mixins.final_layer.norm_final.weight"}.isdisjoint(
        naming_of(leaves(file), leaves(model)).pairs
    )


@pytest.mark.parametrize("inside", ["file", "model"])
def test_a_part_of_one_member_of_a_list_is_not_the_layer_of_its_name_beside_the_list(inside):
    """A `conv` that was added beside the layers, and one that is gone from a layer or new in it, share their last words alone."""
    part = {"conv.weight": (4, 4, 3), "conv.bias": (4,)}
    members = [{f"layers.{at}.mix.{name}": shape for name, shape in part.items()} for at in range(3)]
    rest = network("layers.0.", 4) | network("layers.1.", 4) | network("layers.2.", 4) | members[0] | members[1]
    sides = [rest | part, rest | members[2]]
    file, model = sides if inside == "model" else sides[::-1]
    assert "conv.weight" not in {end for pair in naming_of(leaves(file), leaves(model)).pairs.items() for end in pair}
    plan = tg.plan(in_names(model), in_names(file))
    assert all(step.slot.name == step.feeds[0].key for step in plan.steps if step.feeds)


def in_names(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def row(name, *sizes):
    return {f"{name}{2 * at}.weight": size for at, size in enumerate(sizes)}


ROW = (8, 5), (8, 8), (3, 8)


def test_a_module_that_was_renamed_holds_the_same_numbers_and_shapes():
    beside = network("critic.", 4)
    naming = naming_of(leaves(row("actor.main.", *ROW) | beside), leaves(row("actor.net.", *ROW) | beside))
    assert naming.pairs["actor.main.2.weight"] == "actor.net.2.weight"
    assert "actor.main.2.weight" in naming.parted  # nothing but numbers and shapes speaks for it


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (row("main.", *ROW[1:]), row("net.", *ROW[1:])),  # two layers, as heads have
        (row("main.", *ROW), row("net.", *ROW, (2, 3))),  # one more
        (row("main.", *ROW) | row("old.", *ROW), row("net.", *ROW)),  # one of two
        (row("main.", *ROW), row("net.", *ROW) | row("side.", *ROW)),
        (row("main.", *3 * ROW[:1]), row("net.", *3 * ROW[:1])),  # a list
        (row("actor.main.", *ROW), row("head.net.", *ROW)),  # elsewhere
        (row("main.0.", *ROW), row("main.1.", *ROW)),  # the next member of a list
    ],
)
def test_but_for_few_layers_others_left_or_another_place(ours, theirs):
    beside = network("critic.", 4)
    naming = naming_of(leaves(ours | beside), leaves(theirs | beside))
    assert naming.pairs.keys() == beside.keys()
