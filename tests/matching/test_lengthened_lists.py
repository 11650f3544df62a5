"""A list that both sides have by its name, and that is longer on one of them, isn't filled up from another list unasked."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg

WIDTH = 6


def block():
    layers = {"norm": nn.LayerNorm(WIDTH), "up": nn.Linear(WIDTH, 9), "down": nn.Linear(9, WIDTH)}
    return nn.ModuleDict(layers)


def net(other="", lengths=(2, 2), prefix="blocks"):
    """Return a network with `blocks`, and with a second list under another name behind it, where one is given."""
    rows = {prefix: nn.ModuleList(block() for _ in range(lengths[0]))}
    if other:
        rows[other] = nn.ModuleList(block() for _ in range(lengths[1]))
    return filled(nn.ModuleDict({"embed": nn.Linear(4, WIDTH), **rows, "head": nn.Linear(WIDTH, 3)}))


@pytest.mark.parametrize("other", ["decoder_blocks", "late", "extra_layers"])
@pytest.mark.parametrize("file_has_both", [True, False])
def test_added_blocks_are_not_those_of_another_list_without_a_word(other, file_has_both):
    short, long = net(other), net(lengths=(4, 0))
    source, model = (short, long) if file_has_both else (long, short)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="go on with members of another"):
        tg.load(model, source.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    added = ["blocks.2", "blocks.3"] if file_has_both else [other]
    report = tg.load(model, source.state_dict(), fresh=added)
    assert {step.slot.name.partition(".")[0] for step in report.plan.fresh} == {added[0].partition(".")[0]}
    assert torch.equal(model.state_dict()["blocks.1.up.weight"], source.state_dict()["blocks.1.up.weight"])


def test_members_of_one_list_that_was_cut_in_chunks_are_no_other_list():
    """`blocks.0.0` to `blocks.1.3` beside `blocks.0` to `blocks.3`."""
    chunks = nn.ModuleDict({"embed": nn.Linear(4, WIDTH), "head": nn.Linear(WIDTH, 3)})
    model = filled(net(lengths=(4, 0)))
    file = {f"{name}": value for name, value in filled(chunks).state_dict().items()}
    values = net(lengths=(4, 0)).state_dict()
    file |= {
        f"blocks.{int(name.split('.')[1]) // 2}.{name.partition('.')[2]}": value
        for name, value in values.items()
        if name.startswith("blocks.")
    }
    report = tg.load(model, file)
    assert not report.plan.fresh
    assert torch.equal(model.state_dict()["blocks.3.up.weight"], values["blocks.3.up.weight"])


def test_what_the_caller_says_of_a_part_of_a_block_is_no_second_list():
    """Where norms of the blocks go was in doubt, and told as asked; then all else of the blocks was."""
    shapes = ((WIDTH,), (WIDTH, WIDTH), (9, WIDTH), (WIDTH, 9))

    def body(outer, *names):
        inside = {f"{n}.{name}": torch.rand(shape) for n in (0, 1) for name, shape in zip(names, shapes, strict=True)}
        return {f"{outer}.layers.{name}": value for name, value in inside.items()}

    file = body("model", "norm.weight", "attn.o.weight", "mlp.up.weight", "mlp.down.weight")
    model = body("decoder", "front.layer_norm_weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    rule = {"model.layers.{i}.norm.weight": "decoder.layers.{i}.front.layer_norm_weight"}
    plan = tg.plan(model, file, rename=rule)
    assert not plan.refusals
    assert [step.feeds[0].key for step in plan.steps] == list(file)
