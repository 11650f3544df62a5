"""Parts that came from the checkpoint are known by element, stay where they are on request, and the rest learns."""

import copy

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from tuning_models import Net, fate_lists, made, nets, step

import torchgraft as tg
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Feed, Plan, Rows, Step, Why
from torchgraft.ops import MeanRows
from torchgraft.surveying import survey
from torchgraft.tuning import freeze, loaded_masks, param_groups

ROWS = (0, 2)


def grown(rows=ROWS, dim=0, classes=4):
    """Return a model of which the head came in part, and the report that says so."""
    model = Net(1, classes=classes)
    steps = [step(s, "loaded") for s in survey(model).slots if not s.name.startswith("head")]
    for slot in survey(model).slots:
        if slot.name.startswith("head") and (dim == 0 or len(slot.spec.shape) > dim):
            part = Step(slot=slot, feeds=(Feed(slot.name),), rows=Rows(dim, rows), why=Why("test", "rows"))
            steps.append(part)
        elif slot.name.startswith("head"):
            steps.append(step(slot, "loaded"))
    return model, Plan(steps=tuple(steps))


def train(model, optimizer, steps=4):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()


@settings(max_examples=25, deadline=None)
@given(nets, fate_lists)
def test_masks_count_the_elements_that_coverage_counts(model, fates):
    plan = made(fates, model)
    masks = loaded_masks(model, plan)
    constant = {s.slot.name for s in plan.steps if s.ops and not s.feeds}
    assert set(masks) == {s.slot.name for s in plan.steps}
    for found in plan.steps:
        mask = masks[found.slot.name]
        assert mask.shape == found.slot.spec.shape
        assert mask.dtype is torch.bool
        assert int(mask.sum()) == (0 if found.slot.name in constant else found.filled)


def test_what_a_rule_made_did_not_come_from_the_checkpoint():
    model = nn.Linear(4, 6)
    weight, bias = survey(model).slots
    op = MeanRows(source=4, target=6)
    part = Step(slot=weight, feeds=(Feed("w", (op,)),), made=Rows(0, (4, 5)), why=Why("test", "mean"))
    plan = Plan(steps=(part, step(bias, "loaded")))
    assert part.filled == 16
    assert loaded_masks(model, plan)["weight"][:, 0].tolist() == [True] * 4 + [False] * 2
    assert freeze(model, plan).left.keys() == {"weight"}


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(
    "build",
    [
        lambda ps: torch.optim.SGD(ps, lr=0.1),
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
        lambda ps: torch.optim.Adam(ps, lr=0.1),
        lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.0),
        lambda ps: torch.optim.RMSprop(ps, lr=0.1),
        lambda ps: torch.optim.Adagrad(ps, lr=0.1),
    ],
)
def test_the_held_part_stays_bit_for_bit_and_the_rest_learns(build, dim):
    model, plan = grown(dim=dim)
    frozen = freeze(model, plan, partly="hold")
    assert frozen.held == (("head.weight", "head.bias") if dim == 0 else ("head.weight",))
    assert frozen.left == {}
    before = model.head.weight.detach().clone()
    train(model, build([p for p in model.parameters() if p.requires_grad]))
    mask = loaded_masks(model, plan)["head.weight"]
    assert torch.equal(model.head.weight[mask], before[mask])
    assert (model.head.weight[~mask] != before[~mask]).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda ps: torch.optim.SGD(ps, lr=0.1, weight_decay=0.1),
        lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.1),
    ],
)
def test_decay_moves_the_held_part_unless_it_is_kept(build):
    model, plan = grown()
    frozen = freeze(model, plan, partly="hold")
    optimizer = build([p for p in model.parameters() if p.requires_grad])
    before = model.head.weight.detach().clone()
    train(model, optimizer)
    assert (model.head.weight[list(ROWS)] != before[list(ROWS)]).all()
    before = model.head.weight.detach().clone()
    frozen.keep(optimizer)
    train(model, optimizer)
    assert torch.equal(model.head.weight[list(ROWS)], before[list(ROWS)])
    assert (model.head.weight[1] != before[1]).all()
    frozen.undo()
    train(model, optimizer)
    assert (model.head.weight[list(ROWS)] != before[list(ROWS)]).all()


def test_moments_from_before_move_the_held_part_unless_it_is_kept():
    model, plan = grown()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, 1)
    frozen = freeze(model, plan, partly="hold")
    frozen.keep(optimizer)
    before = model.head.weight.detach().clone()
    train(model, optimizer)
    assert torch.equal(model.head.weight[list(ROWS)], before[list(ROWS)])


@pytest.mark.parametrize(
    ("held", "moved"), [(Rows(0, (0, 1, 2)), ([4, 5], [0, 1, 2])), (Rows(1, (0, 2)), ([1, 4, 5], [1]))]
)
def test_sparse_gradients_of_tables_are_held_too(held, moved):
    table = nn.Embedding(6, 3, sparse=True)
    slot = survey(table).slots[0]
    plan = Plan(steps=(Step(slot=slot, feeds=(Feed("w"),), rows=held, why=Why("test", "rows")),))
    freeze(table, plan, partly="hold")
    before = table.weight.detach().clone()
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([1, 4, 1, 5])).square().sum().backward()
        assert table.weight.grad.is_sparse
        optimizer.step()
    changed = torch.zeros(6, 3, dtype=torch.bool)
    changed[torch.tensor(moved[0])[:, None], torch.tensor(moved[1])] = True
    assert torch.equal(table.weight != before, changed)


def test_a_held_parameter_is_in_a_group_without_decay_at_the_rate_of_fresh_ones():
    model, plan = grown()
    freeze(model, plan, partly="hold")
    groups = param_groups(model, plan, lr=0.1, fresh_lr=1.0, layer_decay=0.5, weight_decay=0.1)
    assert [(g["names"], g["lr"], g["weight_decay"]) for g in groups] == [(["head.weight", "head.bias"], 1.0, 0.0)]
    assert groups[0]["name"].startswith("fresh part")


def test_undo_gives_gradients_back_and_copies_have_no_hooks():
    model, plan = grown()
    model(torch.randn(3, 4)).sum().backward()
    gradient = model.head.weight.grad
    frozen = freeze(model, plan, partly="hold")
    assert model.head.weight.grad is None
    twin = copy.deepcopy(model)
    frozen.undo()
    assert model.head.weight.grad is gradient
    for net in (model, twin):
        net.zero_grad()
        net(torch.randn(3, 4)).sum().backward()
        assert (net.head.weight.grad[list(ROWS)] != 0).any()


def test_an_optimizer_of_another_model_can_keep_nothing():
    model, plan = grown()
    frozen = freeze(model, plan, partly="hold")
    with pytest.raises(UsageError, match="nothing to keep"):
        frozen.keep(torch.optim.SGD(Net(1).parameters(), lr=0.1))


def test_from_a_load_to_training_end_to_end():
    old, new = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5))
    names = tg.AxisNames(["cat", "dog", "horse"], ["bird", "dog", "cat", "fish", "horse"])
    report = tg.load(new, old, axis_names={"1": names})
    frozen = tg.freeze(new, report, partly="hold")
    train(new, torch.optim.Adam(tg.param_groups(new, report, lr=0.1, weight_decay=0.1)))
    assert frozen.held == ("1.weight", "1.bias")
    assert torch.equal(new[1].weight[[2, 1, 4]], old[1].weight)
    assert not tg.loaded_masks(new, report)["1.weight"][[0, 3]].any()
