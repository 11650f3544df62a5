"""One tensor under several names, in the file or in the model, is no ambiguity: by kind of file, and on both sides."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import torchgraft as tg

WIDTHS = (3, 8, 12, 20)


class Block(nn.Module):
    """A block that keeps its layers by name, and again in a list, as nnU-Net does."""

    def __init__(self, width, out, *, again):
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=1)
        self.norm = nn.BatchNorm2d(out)
        if again:
            self.all_modules = nn.Sequential(self.conv, self.norm)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


def stack(*, again):
    return nn.ModuleList([Block(a, b, again=again) for a, b in pairwise(WIDTHS)])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = stack(again=True)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


class Head(nn.Module):
    """A decoder that holds the encoder, too."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(WIDTHS[-1], 4, 1)


class Twice(nn.Module):
    """Every tensor of the encoder has four names."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Head(self.encoder)

    def forward(self, x):
        return self.decoder.head(self.encoder(x))


class Once(nn.Module):
    """The same network with one name for each tensor, and other words."""

    def __init__(self):
        super().__init__()
        self.layers = stack(again=False)
        self.head = nn.Conv2d(WIDTHS[-1], 4, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def filled(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


def as_zip(model, folder):
    torch.save(model.state_dict(), folder / "a.pt")
    return folder / "a.pt"


def as_safetensors(model, folder):
    save_file({k: v.clone() for k, v in model.state_dict().items()}, folder / "a.safetensors")
    return folder / "a.safetensors"


KINDS = {
    "zip": as_zip,
    "safetensors": as_safetensors,
    "dict": lambda model, _: model.state_dict(),
    "clones": lambda model, _: {k: v.clone() for k, v in model.state_dict().items()},
    "module": lambda model, _: model,
}


def outputs(*models):
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        return [model(x) for model in models]


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_one_tensor_in_the_file_are_no_rivals(kind, tmp_path):
    source, target = filled(Twice(), 0), filled(Once(), 1)
    report = tg.load(target, KINDS[kind](source, tmp_path))
    assert torch.equal(*outputs(source, target))
    assert not [u.spec.name for u in report.plan.unused if not u.quiet]
    kept = {f.key for s in report.plan.steps for f in s.feeds if s.filled}
    assert {k for k in kept if "stages" in k} == {
        k for k in source.state_dict() if k.startswith("encoder.") and "all_" not in k
    }


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_one_tensor_in_the_model_are_no_rivals(kind, tmp_path):
    source, target = filled(Once(), 0), filled(Twice(), 1)
    tg.load(target, KINDS[kind](source, tmp_path))
    assert torch.equal(*outputs(source, target))


def test_a_further_name_is_told_as_such(tmp_path):
    report = tg.load(filled(Once(), 1), as_zip(filled(Twice(), 0), tmp_path))
    told = {u.spec.name: u.why for u in report.plan.unused}
    why = told["decoder.encoder.stages.0.all_modules.0.weight"]
    assert (why.rule, why.text) == ("echo", "another name of encoder.stages.0.conv.weight: one tensor in the file")


def test_copies_are_told_as_such_and_are_no_leftovers():
    weights = filled(Once(), 0).state_dict()
    state = {f"student.{k}": v for k, v in weights.items()} | {f"teacher.{k}": v.clone() for k, v in weights.items()}
    plan = tg.plan(Once(), state)
    assert not plan.objections
    told = {u.spec.name: u.why.text for u in plan.unused}
    assert told["teacher.layers.0.conv.weight"] == "holds the same values as student.layers.0.conv.weight"


def test_what_only_looks_like_a_second_copy_stays_in_doubt(tmp_path):
    """Other values under the second names: nothing tells which are meant."""
    state = {k: v.clone() for k, v in filled(Twice(), 0).state_dict().items()}
    for key in [k for k in state if k.startswith("decoder.encoder.")]:
        state[key] = state[key] + 1
    with pytest.raises(tg.PlanRefusedError):
        tg.load(filled(Once(), 1), state)


class Tied(nn.Module):
    def __init__(self, names, *, tied):
        super().__init__()
        first, last = names
        self.add_module(first, nn.Embedding(30, 8))
        self.add_module("inner", nn.Linear(8, 8))
        self.add_module(last, nn.Linear(8, 30, bias=False))
        if tied:
            getattr(self, last).weight = getattr(self, first).weight


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(("embed_tokens", "lm_head"), ("tok_embeddings", "output")), (("wte", "head"), ("token_embedding", "lm_head"))],
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_table_that_is_also_the_last_layer_fills_both_places(ours, theirs, tied):
    source, target = filled(Tied(ours, tied=True), 0), filled(Tied(theirs, tied=tied), 1)
    tg.load(target, source.state_dict(), on_doubt="take")
    for name in theirs:
        assert torch.equal(getattr(target, name).weight, getattr(source, ours[0]).weight)


def test_the_name_that_says_more_of_the_other_side_is_used():
    """The shorter of the names says nothing of a model without a last layer."""
    table = torch.rand(30, 8)
    target = nn.ModuleDict({"tok": nn.ModuleDict({"tok_embeddings": nn.Embedding(30, 8)})})
    plan = tg.plan(target, {"lm_head.weight": table, "model.embed_tokens.weight": table})
    assert [f.key for s in plan.steps for f in s.feeds] == ["model.embed_tokens.weight"]


def test_the_name_that_says_more_of_the_first_name_is_used():
    """The shorter of the names says something of the model's last layer, but the model's table is matched by its own name."""
    table = torch.rand(30, 8)
    model = Tied(("embed_tokens", "lm_head"), tied=True)
    state = {f"esm.inner.{name}": value for name, value in model.inner.state_dict().items()}
    plan = tg.plan(model, {**state, "esm.embeddings.word_embeddings.weight": table, "lm_head.decoder.weight": table})
    step = plan.by_name["embed_tokens.weight"]
    assert [f.key for f in step.feeds] == ["esm.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("copied", [False, True])
def test_repeated_layers_of_a_list_are_layers_of_their_own(copied):
    """A model grown by repeating its layers: they are read as those of any longer list, whatever values they hold."""
    layers = [torch.rand(8, 8) for _ in range(6)]
    held = [layers[k] for k in ([0, 1, 0, 1, 2, 3] if copied else range(6))]
    state = {f"blocks.{i}.fc.weight": layer for i, layer in enumerate(held)}

    def block():
        return nn.ModuleDict({"linear": nn.Linear(8, 8, bias=False)})

    plan = tg.plan(nn.ModuleDict({"layers": nn.ModuleList([block() for _ in range(4)])}), state)
    assert [f.key for s in plan.steps for f in s.feeds] == [f"blocks.{i}.fc.weight" for i in range(4)]


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_what_two_networks_of_a_file_share_says_not_which_of_them_is_meant(shared):
    """A generator and a discriminator of one table: unless they are one network, to take the first would be a guess."""
    layers = [torch.rand(30, 8), torch.rand(8, 8)]
    parts = {"generator": layers, "discriminator": [*layers[:shared], *(torch.rand_like(v) for v in layers[shared:])]}
    state = {
        f"{part}.{name}.weight": v for part, held in parts.items() for name, v in zip(("tok", "fc"), held, strict=True)
    }
    model = nn.ModuleDict({"tok": nn.Embedding(30, 8), "fc": nn.Linear(8, 8, bias=False)})
    assert bool(tg.plan(model, state).refusals) == (shared < len(layers))


class MaskedWords(nn.Module):
    """A masked language model: its last layer is the table of words, and is registered before it."""

    def __init__(self, attention):
        super().__init__()
        self.head = nn.ModuleDict({"dense": nn.Linear(6, 6), "decoder": nn.Linear(6, 9, bias=False)})
        self.body = nn.ModuleDict({"words": nn.Embedding(9, 6)})
        self.body["layers"] = nn.ModuleList(
            [nn.ModuleDict({attention: nn.Linear(6, 6), "fc": nn.Linear(6, 8)}) for _ in range(3)]
        )
        self.head["decoder"].weight = self.body["words"].weight


def test_a_name_that_the_file_has_is_the_one_to_match_by():
    saved, model = MaskedWords("attention").state_dict(), MaskedWords("self_attn")
    del saved["head.decoder.weight"]
    plan = tg.load(model, saved).plan
    assert plan.by_slot["head.decoder.weight"].feeds[0].key == "body.words.weight"
    assert plan.by_slot["head.decoder.weight"].certainty is not tg.Certainty.DOUBT
