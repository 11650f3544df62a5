"""Two towers of one build behind prefixes that differ: words of the prefixes tell which is which, their length doesn't."""

from __future__ import annotations

import pytest
import torch

import torchgraft as tg
from torchgraft.core.plan import Certainty
from torchgraft.matching.names.naming import Prefix


def tower(prefix, *, table, widths=(4, 6)):
    shapes = {"embed.weight": (9, 4)} if table else {}
    for n in range(3):
        shapes |= {
            f"layers.{n}.up.weight": widths[::-1],
            f"layers.{n}.down.weight": widths,
            f"layers.{n}.norm.weight": widths[:1],
        }
    return {prefix + name: torch.rand(shape) for name, shape in shapes.items()}


def feeds(plan):
    return {s.slot.name: (s.feeds[0].key, s.certainty) for s in plan.steps if s.feeds}


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_a_prefix_that_shares_words_comes_before_a_shorter_one(table, order):
    """`wide.inner.text_tower.model` is `model.all.text_tower`, though `model.short` has fewer dots."""
    ours = [tower("wide.inner.text_tower.model.", table=table), tower("wide.other.", table=False)][::order]
    theirs = [tower("model.all.text_tower.", table=table), tower("model.short.", table=table)][::order]
    plan = tg.plan(theirs[0] | theirs[1], ours[0] | ours[1], on_doubt="take")
    for slot, (key, _) in feeds(plan).items():
        assert ("text_tower" in slot) == ("text_tower" in key)


@pytest.mark.parametrize("table", [False, True])
def test_towers_whose_names_say_nothing_are_in_doubt_also_where_one_has_a_table_more(table):
    ours = tower("a.net.", table=False) | tower("b.net.", table=table)
    theirs = tower("c.net.", table=False) | tower("d.net.", table=table)
    plan = tg.plan(theirs, ours, on_doubt="take")
    sure = {slot for slot, (_, certainty) in feeds(plan).items() if certainty is not Certainty.DOUBT}
    assert sure <= {"d.net.embed.weight"}


def norm(prefix, *, counter):
    state = {f"{prefix}bn.{name}": torch.rand(4) for name in ("weight", "bias", "running_mean", "running_var")}
    return state | ({f"{prefix}bn.num_batches_tracked": torch.tensor(3)} if counter else {})


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("counter", [False, True])
def test_a_name_that_agrees_further_comes_before_one_with_a_counter_more(first, counter):
    """`bn` may be any norm; `model.encoder.net.0.bn` is the model's `net.0.bn`, also where its counter is missing."""
    parts = [norm("", counter=True), norm("model.encoder.net.0.", counter=counter)]
    model = torch.nn.ModuleDict({"net": torch.nn.ModuleList([torch.nn.ModuleDict({"bn": torch.nn.BatchNorm2d(4)})])})
    plan = tg.plan(model, parts[first] | parts[1 - first])
    for slot, (key, _) in feeds(plan).items():
        assert key == f"model.encoder.{slot}"


def recurrent(first, second, *, fused):
    """Return two towers of layers, in this order; the fused rows of one side can't be told apart."""
    parts = (
        {"attn.gqkv": (16, 4), "attn.o": (4, 4)}
        if fused
        else {f"self_attn.{part}": (4, 4) for part in ("q", "k", "v", "g", "o")}
    )
    parts |= {"mlp.up": (6, 4), "mlp.down": (4, 6)}
    return {
        f"model.{name}_module.layers.{n}.{part}.weight": torch.rand(shape)
        for name in (first, second)
        for n in range(2)
        for part, shape in parts.items()
    }


def test_lists_that_both_sides_have_stay_what_they_are_called_in_any_order():
    plan = tg.plan(recurrent("L", "H", fused=False), recurrent("H", "L", fused=True), on_doubt="take")
    found = {slot: key for slot, (key, _) in feeds(plan).items()}
    assert {slot for slot in found if "mlp" in slot} == {f"model.{a}_module.layers.{n}.mlp.{part}.weight" for a in "HL" for n in (0, 1) for part in ("up", "down")}  # fmt: skip
    assert all(slot.split(".")[:4] == key.split(".")[:4] for slot, key in found.items())


def test_a_rule_is_told_from_a_twin_of_as_many_words_by_what_they_mean():
    """`encoder_attn` is a cross-attention, as in Deformable DETR: none of its words means the encoder."""
    new = "model.decoder.layers.0.encoder_attn."
    rule = Prefix("transformer.decoder.layers.0.cross_attn.", new)
    twin = Prefix("transformer.encoder.layers.0.self_attn.", new)
    assert rule.shared_words == twin.shared_words
    assert rule.shared_meanings > twin.shared_meanings
