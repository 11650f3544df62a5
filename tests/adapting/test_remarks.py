"""Notes on what may surprise: lists cut short, tied tables, norms behind fresh layers; and files of another variant."""

from __future__ import annotations

import ast
import itertools
import re

import pytest
import torch
import torchvision
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


def stack(depth: int, width: int = 8) -> nn.ModuleDict:
    def layer() -> nn.ModuleDict:
        return nn.ModuleDict({"up": nn.Linear(width, 3 * width), "down": nn.Linear(3 * width, width)})

    return nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(depth)), "norm": nn.LayerNorm(width)})


@pytest.mark.parametrize(
    ("file", "model", "said"),
    [
        (
            5,
            2,
            "layers: the file has 5 layers, of which numbers 2-4 are not used (layers={'layers': [0, 4]} picks others)",
        ),
        (3, 2, "layers: the file has 3 layers, of which number 2 is not used (layers={'layers': [0, 2]} picks others)"),
        (
            2,
            4,
            "layers: the model has 4 layers, of which numbers 2-3 stay fresh (layers={'layers': [0, 0, 1, 1]} repeats those",
        ),
    ],
)
def test_a_stack_that_is_cut_or_grown_is_said(file: int, model: int, said: str) -> None:
    (note,) = tg.plan(stack(model), stack(file)).notes
    assert note.startswith(said)


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_in_words_are_counted_too_and_picked_by_the_path_that_the_note_gives(first: int) -> None:
    def mapping(depth: int) -> nn.ModuleDict:
        return nn.ModuleDict({"mapping": nn.ModuleDict({f"fc{n + first}": nn.Linear(6, 6) for n in range(depth)})})

    model, file = mapping(2), mapping(5)
    (note,) = tg.plan(model, file).notes
    path, said = note.split(": ", 1)
    left = f"{2 + first}-{4 + first}"
    others = f"layers={{'mapping.fc{{i}}': [{first}, {4 + first}]}} picks others"
    assert said == f"the file has 5 layers, of which numbers {left} are not used ({others})"
    report = tg.load(model, file, layers={path: [4, 3]})
    assert not report.plan.fresh
    assert not report.plan.notes
    for place, number in enumerate((4, 3)):
        ours, theirs = model["mapping"][f"fc{place + first}"], file["mapping"][f"fc{number}"]
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
    with pytest.raises(tg.UsageError, match="3 layers are given, and the model has 2 there"):
        tg.plan(model, file, layers={path: [4, 3, 2]})
    with pytest.raises(tg.UsageError, match=rf"no list of layers at 'mapping'; did you mean '{re.escape(path)}'"):
        tg.plan(model, file, layers={"mapping": [4, 3]})
    with pytest.raises(tg.UsageError, match=f"contradict each other about mapping.fc{first}"):
        tg.plan(model, file, layers={path: [4, 3]}, fresh=[f"mapping.fc{first}"])


def test_nothing_is_said_of_stacks_that_fit_or_were_asked_for() -> None:
    assert tg.plan(stack(3), stack(3)).notes == ()
    assert tg.plan(stack(2), stack(4), layers={"layers": [0, 3]}).notes == ()
    other_width = stack(3)
    other_width["layers"][2] = nn.ModuleDict({"up": nn.Linear(8, 5), "down": nn.Linear(5, 8)})
    assert not any("not used" in note for note in tg.plan(stack(3), other_width).notes)


@pytest.mark.parametrize("picks", [[0, 1], [0, 2], [1, 1]])
def test_a_list_that_layers_speaks_of_is_left_out_of_the_note_and_others_are_not(picks: list[int]) -> None:
    def two(depth: int) -> nn.ModuleDict:
        return nn.ModuleDict({"up": stack(depth), "down": stack(depth)})

    (note,) = tg.plan(two(2), two(4), layers={"up.layers": picks}).notes
    others = "layers={'down.layers': [0, 3]} picks others"
    assert note == f"down.layers: the file has 4 layers, of which numbers 2-3 are not used ({others})"


def test_layers_under_another_path_of_the_file_are_left_out_of_the_note() -> None:
    file = {f"body.{name.replace('layers', 'blocks')}": value for name, value in stack(4).state_dict().items()}
    assert tg.plan(stack(2), file, layers={"layers": [0, 1]}).notes == ()


def language(*, head: bool) -> nn.ModuleDict:
    parts = {"embed": nn.Embedding(20, 8), "mix": nn.Linear(8, 8), "head": nn.Linear(8, 20, bias=False)}
    return nn.ModuleDict(parts if head else {name: one for name, one in parts.items() if name != "head"})


def test_a_head_for_two_classes_is_no_table_of_two_kinds_of_tokens() -> None:
    class Bert(nn.Module):
        def __init__(self, *, head: bool) -> None:
            super().__init__()
            self.words, self.kinds = nn.Embedding(50, 8), nn.Embedding(2, 8)
            if head:
                self.head = nn.Linear(8, 2)

    assert not tg.plan(Bert(head=True), Bert(head=False)).notes


def test_an_output_layer_that_may_be_tied_is_said_with_a_remedy_that_works() -> None:
    model, file = language(head=True), language(head=False)
    (note,) = tg.plan(model, file).notes
    assert "fan_out={'embed': ['embed', 'head']} fills both" in note
    tg.load(model, file, fan_out={"embed": ["embed", "head"]})
    assert torch.equal(model["head"].weight, file["embed"].weight)


def test_statistics_behind_a_layer_that_starts_fresh_are_said() -> None:
    def net(kernel: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 8, kernel), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))

    (note,) = tg.plan(net(3), net(7)).notes
    assert note.startswith("1: statistics and scales come from the file, while the layer before (0) starts fresh")
    assert tg.plan(net(3), net(3)).notes == ()


@pytest.mark.parametrize("around", ["", "model."])
@pytest.mark.parametrize("ours", ["color", "encoder"])
def test_a_second_branch_that_stays_fresh_is_said_with_a_remedy_that_works(around: str, ours: str) -> None:
    def branch(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(4)))

    def net() -> nn.Module:
        inside = nn.ModuleDict({"color": branch(3), "depth": branch(1), "out": nn.Linear(8, 2)})
        return nn.ModuleDict({"model": inside}) if around else inside

    file = {f"{ours}.{name}": value for name, value in branch(3).state_dict().items()}
    (note,) = [note for note in tg.plan(net(), file).notes if "is built like" in note]
    assert note.startswith(f"{around}depth stays fresh and is built like {around}color")
    remedy = ast.literal_eval(note.partition("fan_out=")[2].removesuffix(" fills both"))
    assert remedy == {ours: [f"{around}color", f"{around}depth"]}
    report = tg.load(net(), file, fan_out=remedy)
    assert {step.slot.name for step in report.plan.fresh} == {f"{around}out.weight", f"{around}out.bias"}
    assert not any("is built like" in note for note in report.plan.notes)


def test_layers_and_blocks_that_were_added_are_no_second_branches() -> None:
    def net(*, grown: bool) -> nn.ModuleDict:
        block = {f"block{n}": nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(4))) for n in range(1, 3 + grown)}
        norms = {name: nn.BatchNorm2d(8) for name in ("inner", *["outer"] * grown)}
        return nn.ModuleDict(block | norms)

    assert not any("is built like" in note for note in tg.plan(net(grown=True), net(grown=False)).notes)


def test_parts_within_a_layer_are_no_layers_before_its_norm() -> None:
    def net(*, grown: bool) -> nn.ModuleList:
        def block() -> nn.ModuleDict:
            conv = nn.Conv2d(8, 8, 3)
            if grown:
                conv.context = nn.Conv2d(8, 8, 1)
            return nn.ModuleDict({"conv": conv, "norm": nn.BatchNorm2d(8)})

        return nn.ModuleList(block() for _ in range(5))

    assert tg.plan(net(grown=True), net(grown=False)).notes == ()
    state = {name: value for name, value in net(grown=True).state_dict().items() if not name.endswith("conv.weight")}
    (note,) = tg.plan(net(grown=True), state | {"stem.weight": torch.ones(1)}).notes
    assert note.startswith("{0-4}.norm: statistics and scales come from the file")


def test_what_is_kept_fresh_is_not_said_to_have_no_place() -> None:
    model, file = language(head=True), language(head=True)
    report = tg.load(model, {f"module.{name}": value for name, value in file.state_dict().items()}, fresh=["head"])
    (unused,) = report.plan.unused
    assert unused.why.text == "you said how its place in the model starts"


def test_what_else_lies_in_the_file_is_said() -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    (note,) = tg.plan(nn.Linear(4, 3), {"model": model.state_dict(), "optimizer": optimizer.state_dict()}).notes
    assert "state of an optimizer, which is not loaded: optimizer_state()" in note
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    averaged = {"ema_" + name.replace(".", "_"): value + 1 for name, value in net.state_dict().items()}
    (note,) = tg.plan(net, net.state_dict() | averaged).notes
    assert note.endswith("(4 tensors): prefer='ema' takes them")
    assert tg.plan(net, net.state_dict() | averaged, prefer="ema").notes == ()


def test_a_file_of_another_width_is_called_so() -> None:
    plan = tg.plan(stack(3, width=8), stack(3, width=12))
    (said,) = [o.text for o in plan.refusals]
    assert "another variant of the model: 6 of the 6 weights" in said
    assert "all of them have 12 where the model has 8" in said


def test_another_variant_is_told_before_the_doubts_that_come_of_it() -> None:
    """Blocks of three layers in place of two: the second layer of the one has the shape of the first of the other."""
    with torch.device("meta"):
        small, large = torchvision.models.resnet18(), torchvision.models.resnet50()
    said = [o.text for o in tg.plan(small, large).refusals]
    assert said[0].startswith("the file looks like one of another variant of the model: 12 of the 21 weights")
    assert re.search(r"\. So \d+ tensors are in doubt: layer", said[0])
    assert "; build the model with the sizes of the file, or take the file of this variant; or keep" in said[0]
    assert len(said) == 1


def test_layers_of_another_width_do_not_go_to_the_next_stage_whose_width_they_have() -> None:
    """A wide ResNet: its inner widths are those of the next stage of the plain one."""
    with torch.device("meta"):
        plain, wide = torchvision.models.resnet50(), torchvision.models.wide_resnet50_2()
    plan = tg.plan(wide, plain)
    assert {step.slot.name for step in plan.steps if step.feeds and step.feeds[0].key != step.slot.name} == set()
    (said,) = [o.text for o in plan.warnings]
    assert "the file looks like one of another variant of the model: 32 of the 54 weights" in said


def test_kernels_with_their_axes_in_another_order_are_no_other_variant_and_name_the_keyword() -> None:
    """Sparse convolutions: spconv 1 keeps [depth, height, width, in, out], spconv 2 puts the output first."""

    def sparse(channels: list[int], *, first: bool) -> nn.ParameterDict:
        pairs = list(itertools.pairwise(channels))
        sizes = [(b, 3, 3, 3, a) if first else (3, 3, 3, a, b) for a, b in pairs]
        return nn.ParameterDict({f"conv{at}": nn.Parameter(torch.randn(size)) for at, size in enumerate(sizes)})

    model, file = (sparse([4, 6, 8, 8, 5], first=first) for first in (True, False))
    (said,) = [o.text for o in tg.plan(model, file).refusals]
    assert "the same axes in another order, perhaps [4, 0, 1, 2, 3] (permute=)" in said
    assert "another variant" not in said
    tg.load(model, file, permute={"conv*": [4, 0, 1, 2, 3]})
    assert torch.equal(model["conv2"], file["conv2"].permute(4, 0, 1, 2, 3))


def test_a_few_weights_of_another_width_are_a_warning_and_heads_are_none() -> None:
    def cross(context: int, classes: int) -> nn.ModuleDict:
        def layer() -> nn.ModuleDict:
            return nn.ModuleDict({"q": nn.Linear(8, 8), "k": nn.Linear(context, 8), "ff": nn.Linear(8, 40)})

        heads = nn.ModuleList(nn.Linear(8, classes) for _ in range(4))
        return nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(3)), "heads": heads})

    (warning,) = tg.plan(cross(6, 3), cross(9, 3)).warnings
    assert warning.kind == "low_coverage"
    assert "3 of the 13 weights" in warning.text
    assert tg.plan(cross(6, 3), cross(6, 5)).warnings == ()


def test_indices_of_another_window_are_no_weights_of_another_variant() -> None:
    """The tables are resampled, and a model makes its indices and masks itself."""

    def windows(side: int) -> nn.ModuleDict:
        def attention() -> nn.Module:
            module = nn.Linear(4, 12)
            module.relative_position_bias_table = nn.Parameter(torch.randn((2 * side - 1) ** 2, 2))
            module.register_buffer("relative_position_index", torch.zeros(side**2, side**2, dtype=torch.int64))
            return module

        return nn.ModuleDict({"blocks": nn.ModuleList(nn.ModuleDict({"attn": attention()}) for _ in range(4))})

    plan = tg.plan(windows(5), windows(3))
    assert len(plan.adapted) == 4
    assert plan.warnings == ()


def test_what_is_kept_fresh_is_not_asked_of_the_file() -> None:
    def two() -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": nn.Linear(40, 40), "decoder": nn.Linear(5, 4)})

    model, first, second = two(), two(), two()
    tg.load(model, first, fresh=["decoder"])
    tg.load(model, second, fresh=["encoder"])  # a fiftieth of the model, and all that was asked for
    assert torch.equal(model["encoder"].weight, first["encoder"].weight)
    assert torch.equal(model["decoder"].weight, second["decoder"].weight)


@pytest.mark.parametrize(
    ("old", "new", "sure"),
    [(3, 5, Certainty.CERTAIN), (3, 1, Certainty.CERTAIN), (3, 2, Certainty.LIKELY), (13, 3, Certainty.DOUBT)],
)
def test_input_channels_that_go_are_not_taken_by_position_for_sure(old: int, new: int, sure: Certainty) -> None:
    plan = tg.plan(nn.Sequential(nn.Conv2d(new, 8, 3)), nn.Sequential(nn.Conv2d(old, 8, 3)))
    assert plan.by_name["0.weight"].certainty is sure


def test_branches_in_doubt_name_the_keyword_that_fuses_them() -> None:
    def branch(kernel: int) -> nn.ModuleDict:
        conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False)
        return nn.ModuleDict({"conv": conv, "bn": nn.BatchNorm2d(4)})

    file = nn.ModuleDict({"stage": nn.ModuleList(
        nn.ModuleDict({"dense": branch(3), "point": branch(1), "identity": nn.BatchNorm2d(4)}) for _ in range(2)
    )})  # fmt: skip
    model = nn.ModuleDict({
        "stage": nn.ModuleList(nn.ModuleDict({"reparam": nn.Conv2d(4, 4, 3, padding=1)}) for _ in range(2))
    })  # fmt: skip
    with pytest.raises(tg.PlanRefusedError, match="fuse_branches=True adds them up"):
        tg.load(model, file)
    assert not tg.load(model, file, fuse_branches=True).plan.doubtful


def test_a_list_of_which_nothing_is_filled_has_no_layers_over():
    model = nn.ModuleDict(
        {"a": nn.Linear(3, 3), "b": nn.ModuleDict({"bn1": nn.LayerNorm(16), "bn2": nn.LayerNorm(16)})}
    )
    file = {"a.weight": torch.randn(3, 3), "a.bias": torch.randn(3), "b.bn2.weight": torch.randn(8)}
    plan = tg.plan(model, file | {"b.bn2.bias": torch.randn(8)})
    assert plan.by_name["b.bn2.weight"].why.rule == "shape"
    assert not plan.notes


def test_two_norms_of_a_block_are_no_list_of_layers() -> None:
    def block(*norms: str) -> nn.ModuleDict:
        return nn.ModuleDict({"fc": nn.Linear(8, 8)} | {name: nn.LayerNorm(8) for name in norms})

    model, file = (
        nn.ModuleDict({"h": nn.ModuleList(block(*n) for _ in range(2))}) for n in (("norm1", "norm2"), ("norm1",))
    )
    assert tg.plan(model, file).notes == ()


@pytest.mark.parametrize(
    ("norm", "told"),
    [
        (lambda: nn.GroupNorm(2, 6), "GroupNorm"),
        (lambda: nn.InstanceNorm2d(6, affine=True), "InstanceNorm2d"),
        (lambda: nn.BatchNorm2d(6), ""),
    ],
)
def test_scales_of_batch_norms_in_other_norms_are_told(norm, told):
    def net(make):
        return nn.Sequential(nn.Conv2d(3, 6, 3), make(), nn.Conv2d(6, 6, 3), make())

    plan = tg.plan(net(norm), net(lambda: nn.BatchNorm2d(6)).state_dict())
    said = [note for note in plan.notes if "scales of batch norms" in note]
    assert [note.partition(",")[0] for note in said] == (["1"] if told else [])
    assert all(f"1, 3: scales of batch norms go into {told}, " in note for note in said)


@pytest.mark.parametrize(("file", "model"), [(12, 6), (6, 4), (2, 6), (3, 2)])
@pytest.mark.parametrize("first", [0, 1])
def test_the_layers_that_a_note_spells_can_be_typed(file: int, model: int, first: int) -> None:
    def net(depth: int) -> nn.ModuleDict:
        return nn.ModuleDict({"fc": nn.ModuleDict({f"fc{n + first}": nn.Linear(6, 6) for n in range(depth)})})

    (note,) = tg.plan(net(model), net(file)).notes
    picks = ast.literal_eval(re.search(r"layers=(\{.*?\]\})", note)[1])
    plan = tg.plan(net(model), net(file), layers=picks)
    assert not plan.fresh
    assert not plan.notes
    assert len({step.feeds[0].key for step in plan.steps}) == 2 * min(file, model)


def test_what_a_table_a_kernel_and_other_inputs_need_can_be_typed_with_their_name() -> None:
    def net(rows: int, kernel: int, inputs: int) -> nn.ModuleDict:
        parts = {"rows": nn.Embedding(rows, 4), "patch": nn.Conv2d(3, 8, kernel), "atoms": nn.Linear(inputs, 8)}
        return nn.ModuleDict({**parts, "out": nn.Linear(8, 30)})

    file, model = net(5, 4, 6), net(7, 2, 9)
    fresh = tg.plan(model, file).fresh
    said = [re.search(r"(\w+)=(\S+|\{.*\}) (?:keeps|resizes)|$", step.why.text) for step in fresh]
    typed = {
        s[1]: ast.literal_eval(s[2].replace("NAME", step.slot.name))
        for step, s in zip(fresh, said, strict=True)
        if s and s[1]
    }
    assert typed.keys() == {"grow_rows", "kernels", "in_channels"}
    assert not tg.plan(model, file, **typed).fresh


def test_what_keeps_most_from_being_filled_is_told_before_how_little_is() -> None:
    def net(*, normed: bool) -> nn.Sequential:
        layers = [nn.Conv1d(4, 8, 3), nn.Conv1d(8, 32, 3)]
        return nn.Sequential(*map(nn.utils.spectral_norm, layers) if normed else layers)

    said = [one.fact for one in tg.plan(net(normed=True), net(normed=False)).refusals]
    assert "plain in the file can't become spectral norm" in said[0]
    assert said[1].startswith("no match")


def test_packed_weights_are_told_before_how_little_fits() -> None:
    file = {
        "0.qweight": torch.zeros(1, 8, dtype=torch.int32),
        "0.qzeros": torch.zeros(1, 1, dtype=torch.int32),
        "0.scales": torch.zeros(1, 8),
    }
    said = [one.kind for one in tg.plan(nn.Sequential(nn.Linear(8, 8)), file).refusals]
    assert said == ["quantised", "coverage"]
