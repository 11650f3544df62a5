"""What is left on both sides, alone of its shape, is asked about: fresh, a model would be loaded in part without a word."""

import copy

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 8


class Decoder(nn.Module):
    """An embedding, layers and a head, under names that are given."""

    def __init__(self, embed="embed", head="lm_head", layers=2, classes=16):
        super().__init__()
        self.add_module(embed, nn.Embedding(16, WIDTH))
        self.layers = nn.ModuleList()
        for _ in range(layers):
            layer = nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "attn": nn.Linear(WIDTH, WIDTH, bias=False)})
            layer["mlp"] = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))
            self.layers.append(layer)
        self.add_module(head, nn.Linear(WIDTH, classes, bias=False))


@pytest.mark.parametrize(
    ("file", "slots"),
    [
        ({"head": "words_out"}, {"lm_head.weight": "words_out.weight"}),
        ({"embed": "words"}, {"embed.weight": "words.weight"}),
        (
            {"embed": "words", "head": "words_for_head"},
            {"embed.weight": "words.weight", "lm_head.weight": "words_for_head.weight"},
        ),
    ],
    ids=["head", "embedding", "both, of one shape"],
)  # fmt: skip
def test_a_default_load_refuses_and_the_best_reading_pairs_them(file, slots):
    source, model = filled(Decoder(**file)).state_dict(), filled(Decoder())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="in doubt"):
        tg.load(model, source)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tg.load(model, source, on_doubt="take")
    state = model.state_dict()
    assert all(torch.equal(state[name], source[key]) for name, key in slots.items())


def test_a_head_that_libraries_call_so_is_one():
    source, model = filled(Decoder(head="embed_out")).state_dict(), filled(Decoder())
    tg.load(model, source)
    assert torch.equal(model.lm_head.weight, source["embed_out.weight"])


def test_named_as_fresh_it_stays_so():
    source, model = filled(Decoder(head="words_out")).state_dict(), filled(Decoder())
    report = tg.load(model, source, fresh=["lm_head*"])
    assert [step.slot.name for step in report.plan.fresh] == ["lm_head.weight"]


@pytest.mark.parametrize("file", [{"head": "words_out", "classes": 17}, {"head": "words_out", "classes": 5}])
def test_of_another_shape_it_is_another_thing(file):
    report = tg.load(filled(Decoder()), filled(Decoder(**file)).state_dict())
    assert [step.slot.name for step in report.plan.fresh] == ["lm_head.weight"]


class Wrapped(nn.Module):
    """A language model in a larger one, with its head inside of it or beside."""

    def __init__(self, *, inside):
        super().__init__()
        language = Decoder(layers=3)
        head = language._modules.pop("lm_head")
        self.add_module("language", nn.ModuleDict({"model": language, "lm_head": head}) if inside else language)
        self.vision = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, WIDTH))
        if not inside:
            self.lm_head = head


@pytest.mark.parametrize("inside", [True, False])
def test_a_head_is_found_outside_of_the_module_whose_rest_has_the_same_names(inside):
    source, model = filled(Wrapped(inside=inside)).state_dict(), filled(Wrapped(inside=not inside))
    report = tg.load(model, dict(sorted(source.items())))
    assert not report.plan.fresh
    head = model.lm_head if inside else model.language["lm_head"]
    assert torch.equal(head.weight, source["language.lm_head.weight" if inside else "lm_head.weight"])


def test_a_module_that_was_added_keeps_to_itself_though_its_layers_are_called_as_others():
    """A control network has a `conv_out` in its hint, and not that of the network whose first half it copies."""
    body = {"conv_in": nn.Conv2d(4, 4, 3), "down": nn.Conv2d(4, 4, 3), "mid": nn.Conv2d(4, 4, 3)}
    hint = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "conv_out": nn.Conv2d(4, 4, 3)})
    file = filled(nn.ModuleDict({**body, "up": nn.Conv2d(8, 4, 3), "conv_out": nn.Conv2d(4, 4, 3)})).state_dict()
    model = filled(nn.ModuleDict({**copy.deepcopy(body), "hint": hint}))
    report = tg.load(model, file)
    fresh = {f"hint.{name}" for name in hint.state_dict()}
    assert {step.slot.name for step in report.plan.fresh} == fresh
    assert all(torch.equal(value, file[name]) for name, value in model.state_dict().items() if name not in fresh)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("text_proj", "visual_proj"), ("student_head", "teacher_head"), ("encoder_out", "decoder_out")]
)
def test_names_that_contradict_each_other_are_asked_about(ours, theirs):
    plan = tg.plan(Decoder(head=theirs), Decoder(head=ours).state_dict())
    assert [step.slot.name for step in plan.doubtful] == [f"{theirs}.weight"]


def test_a_matrix_without_a_name_is_the_layer_of_a_bias_the_other_way_round_in_doubt():
    file = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "out": nn.Linear(8, 7)}).state_dict()
    file["onnx::MatMul_107"] = file.pop("out.weight").T.contiguous()
    plan = tg.plan(nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "classifier": nn.Linear(8, 7)}), file)
    [step] = [step for step in plan.steps if step.slot.name == "classifier.weight"]
    assert [feed.key for feed in step.feeds] == ["onnx::MatMul_107"]
    assert step.certainty is Certainty.DOUBT


def test_a_matrix_the_other_way_round_is_left_where_there_is_another():
    file = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "out": nn.Linear(8, 7)}).state_dict()
    file |= {"a": file.pop("out.weight").T.contiguous(), "b": torch.randn(8, 7)}
    plan = tg.plan(nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "classifier": nn.Linear(8, 7)}), file)
    [step] = [step for step in plan.steps if step.slot.name == "classifier.weight"]
    assert not step.feeds


def test_of_two_parts_that_could_change_places_either_is_in_doubt():
    def part():
        return nn.ModuleDict({"c1": nn.Conv2d(3, 6, 3), "c2": nn.Conv2d(6, 3, 3)})

    file = nn.ModuleDict({"netG_A2B": part(), "netG_B2A": part()}).state_dict()
    plan = tg.plan(nn.ModuleDict({"G_BA": part(), "G_AB": part()}), file)
    assert {step.certainty for step in plan.steps} == {Certainty.DOUBT}


class Nested(nn.Module):
    """A table of positions, in the encoder or in a module of its own inside of it."""

    def __init__(self, *, between):
        super().__init__()
        self.encoder = nn.Module()
        self.positions = nn.Parameter(torch.randn(1, 9, WIDTH))
        self.encoder.layers = nn.ModuleList([nn.ModuleDict({"fc": nn.Linear(WIDTH, WIDTH)}) for _ in range(3)])
        around = self.encoder
        if between:
            around = self.encoder.interpolation = nn.Module()
        around.mid_positions = nn.Parameter(torch.randn(1, 9, WIDTH))


@pytest.mark.parametrize("between", [True, False])
def test_a_module_more_around_what_is_left_makes_no_other_name(between):
    source, model = Nested(between=not between).state_dict(), Nested(between=between)
    plan = tg.load(model, source).plan
    name = next(slot for slot in plan.by_slot if "mid" in slot)
    assert plan.by_slot[name].certainty is Certainty.LIKELY
    assert torch.equal(model.state_dict()[name], next(value for key, value in source.items() if "mid" in key))


@pytest.mark.parametrize("inside", ["file", "model"])
def test_what_lies_in_a_part_is_not_likely_that_of_a_copy_of_the_part_around_it(inside):
    """The `embedding` of a tower may be gone, if an `embedding` and an `mlp` like the tower's stand outside, too."""

    def net(outside):
        mlp = nn.ModuleDict({"embedding": nn.Embedding(16, WIDTH), "mlp": nn.Linear(WIDTH, WIDTH)})
        tower = nn.ModuleDict({"embedding": nn.Embedding(16, WIDTH), "mlp": nn.Linear(WIDTH, WIDTH)})
        parts = {"image": nn.ModuleDict({"mlp": nn.Linear(WIDTH, WIDTH)}) if outside else mlp, "text": tower}
        return filled(nn.ModuleDict(dict(copy.deepcopy(tower).items()) | parts if outside else parts))

    plan = tg.plan(net(inside == "file"), net(inside == "model").state_dict())
    assert plan.refusals
    moved = [step for step in plan.steps if step.feeds and step.slot.name != step.feeds[0].key]
    assert all(step.certainty is Certainty.DOUBT for step in moved)
