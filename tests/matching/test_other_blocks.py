"""A block of another kind among attention blocks: every block behind it gets another number, and keeps its weights."""

import copy

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH, DEPTH = 8, 4


def packed():
    return nn.MultiheadAttention(WIDTH, 2)


def fused():
    return nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})


def apart():
    return nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "out_proj")})


class Net(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(WIDTH), "attn": attention(), "norm2": nn.LayerNorm(WIDTH),
                "mlp": nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH)),
            })
            for _ in range(DEPTH)
        )  # fmt: skip
        self.head = nn.Linear(WIDTH, 5)


def adapter():
    return nn.ModuleDict({"down": nn.Linear(WIDTH, 3), "up": nn.Linear(3, WIDTH)})


def with_adapter(net, at):
    """Return a copy of a network with an adapter before block `at`, and the names that the old tensors have in it."""
    grown = copy.deepcopy(net)
    grown.blocks.insert(at, adapter())
    for value in grown.parameters():
        nn.init.normal_(value)
    names = {}
    for name in net.state_dict():
        parts = name.split(".")
        if parts[0] == "blocks" and int(parts[1]) >= at:
            parts[1] = str(int(parts[1]) + 1)
        names[name] = ".".join(parts)
    return grown, names


@pytest.mark.parametrize("at", range(DEPTH + 1))
@pytest.mark.parametrize("attention", [packed, fused, apart])
def test_blocks_move_by_one_where_another_was_put_in_and_back_where_it_is_taken_out(attention, at):
    net = Net(attention)
    grown, names = with_adapter(net, at)
    file = {key: torch.rand_like(value) for key, value in net.state_dict().items()}
    report = tg.load(grown, file)
    assert {s.slot.name for s in report.plan.fresh} == set(grown.state_dict()) - set(names.values())
    assert all(torch.equal(grown.state_dict()[name], file[key]) for key, name in names.items())

    file = {key: torch.rand_like(value) for key, value in grown.state_dict().items()}
    assert not tg.load(net, file).plan.fresh
    assert all(torch.equal(net.state_dict()[key], file[name]) for key, name in names.items())


def row(*layers):
    return nn.Sequential(*layers)


def convolutions(spare):
    parts = [
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 12, 3),
        nn.ReLU(),
        nn.Linear(12, 16),
        nn.Linear(16, 4),
    ]
    return [*parts[:spare], nn.Identity(), *parts[spare:]]


@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod."])
@pytest.mark.parametrize("spare", range(7))
@pytest.mark.parametrize("back", [False, True])
def test_a_layer_without_weights_shifts_a_row_at_the_top_also_behind_a_wrapper(prefix, spare, back):
    longer = convolutions(spare)
    shorter = [layer for layer in convolutions(spare) if not isinstance(layer, nn.Identity)]
    source, target = (row(*longer), row(*shorter)) if back else (row(*shorter), row(*longer))
    file = {prefix + key: torch.rand(v.shape) if v.is_floating_point() else v for key, v in source.state_dict().items()}
    report = tg.load(target, file | {"criterion.weight": torch.rand(3)})
    assert not report.plan.fresh
    assert all(torch.equal(a, b) for a, b in zip(target.state_dict().values(), file.values(), strict=True))


class Residual(nn.Module):
    def __init__(self, before, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width)
        if before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))


def residuals(depths):
    widths = (4, 8, 16)
    stages = {
        f"layer{n + 1}": nn.Sequential(*(
            Residual(widths[max(n - 1, 0)] if k == 0 else widths[n], widths[n]) for k in range(depth)
        ))
        for n, depth in enumerate(depths)
    }  # fmt: skip
    return nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 7), **stages, "fc": nn.Linear(16, 5)})


@pytest.mark.parametrize("in_order", [True, False])
def test_the_first_block_of_a_stage_is_taken_out_also_where_the_file_is_sorted(in_order):
    source, target = residuals((3, 3, 3)), residuals((3, 3, 3))
    target["layer3"] = nn.Sequential(*list(target["layer3"])[1:])
    file = {key: torch.rand(v.shape) if v.is_floating_point() else v for key, v in source.state_dict().items()}
    tg.load(target, file if in_order else dict(sorted(file.items())))
    for name, value in target.state_dict().items():
        parts = name.split(".")
        if parts[0] == "layer3":
            parts[1] = str(int(parts[1]) + 1)
        assert torch.equal(value, file[".".join(parts)]), name


def test_where_the_list_also_grew_nothing_says_which_of_its_last_blocks_are_the_old_ones():
    net = Net(fused)
    grown, _ = with_adapter(net, 2)
    grown.blocks.append(copy.deepcopy(grown.blocks[-1]))
    plan = tg.plan(grown, net.state_dict(), on_doubt="take")
    behind = [s for s in plan.steps if s.slot.name.startswith(("blocks.3.", "blocks.4.", "blocks.5.")) and s.feeds]
    assert all(s.certainty is Certainty.DOUBT for s in behind)
    assert plan.by_slot["blocks.1.norm1.weight"].feeds[0].key == "blocks.1.norm1.weight"


def test_a_bias_that_the_model_lacks_does_not_leave_its_layer_for_the_wrapped_part():
    def part(bias=True):  # noqa: FBT002
        return row(nn.Linear(6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH, bias=bias))

    source = nn.ModuleDict({"encoder": part(), "fc": nn.Linear(WIDTH, 3), "decoder": row(*part(), nn.Linear(WIDTH, 9))})
    decoder = row(*part(bias=False), row(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 7)))
    target = nn.ModuleDict({"body": nn.ModuleDict({"encoder": part(), "fc": nn.Linear(WIDTH, 3)}), "decoder": decoder})
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    assert not plan.by_slot["decoder.3.0.bias"].feeds
    assert plan.by_slot["decoder.2.weight"].feeds[0].key == "decoder.2.weight"


def pyramid(sizes: list[int], *, norms: bool = False) -> nn.Module:
    """Return a pyramid of features: what takes each level in, and what smooths it."""
    inner = nn.ModuleList(nn.Sequential(nn.Conv2d(size, 12, 1)) for size in sizes)
    smooth = nn.ModuleList(nn.Sequential(nn.Conv2d(12, 12, 3)) for _ in sizes)
    body = nn.ModuleList(nn.Conv2d(3, size, 3) for size in (8, 16, 32, 64))
    return filled(nn.ModuleDict({"body": body, "inner_blocks": inner, "layer_blocks": smooth}))


def test_a_list_beside_one_that_begins_higher_is_asked_about() -> None:
    """What takes in the levels is told by its sizes; what smooths them has one size, and would go by its numbers."""
    plan = tg.plan(pyramid([16, 32, 64]), pyramid([8, 16, 32, 64]).state_dict())
    assert [plan.by_slot[f"inner_blocks.{n}.0.weight"].feeds[0].key for n in range(3)] == [
        f"inner_blocks.{n}.0.weight" for n in (1, 2, 3)
    ]
    assert all(plan.by_slot[f"layer_blocks.{n}.0.weight"].certainty is Certainty.DOUBT for n in range(3))


def test_a_counter_alone_is_nothing_to_ask_about() -> None:
    """The norm of a head of other sizes: nothing but its number of batches fits."""

    def net(width: int, *, first: nn.Module | None = None) -> nn.Module:
        body = nn.ModuleDict({f"conv{n}": nn.Conv2d(8, 8, 3) for n in range(4)})
        layers = [
            *([first] if first else []),
            nn.Conv2d(width, width, 3),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 5, 1),
        ]
        return filled(nn.ModuleDict({"body": body, "classifier": nn.Sequential(*layers)}))

    plan = tg.plan(net(12), net(6, first=nn.Conv2d(8, 6, 1)).state_dict())
    assert not plan.refusals
    assert not any(step.feeds for slot, step in plan.by_slot.items() if slot.endswith("num_batches_tracked"))
