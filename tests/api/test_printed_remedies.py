"""A refusal names its remedies as they are given: each of them is accepted, and settles what it was named for."""

import ast
import json
import shlex
from contextlib import suppress

import click
import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.cli.keywords import _pattern, as_typed, keyword_arguments
from torchgraft.cli.options import PLAN_OPTIONS, with_options


def table(rows):
    return nn.ModuleDict({"tok": nn.Embedding(rows, 4), "head": nn.Linear(4, rows, bias=False), "mix": nn.Linear(4, 8)})


def layers():
    return nn.ModuleList(nn.ModuleDict({"fc": nn.Linear(4, 8), "mix": nn.Linear(8, 8)}) for _ in range(3))


def turned():
    """Matrices of which the oblong ones are stored transposed but one: of the square ones nothing tells it."""
    file = {k: torch.randn_like(v) for k, v in layers().state_dict().items()}
    return file | {f"{i}.fc.weight": file[f"{i}.fc.weight"].T.contiguous() for i in range(2)}


def changed(model, change):
    return {name: change(value.clone()) if value.dim() > 1 else value for name, value in model.state_dict().items()}


def net():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


class Counting(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("steps", torch.zeros(3, dtype=dtype))
        self.fc = nn.Linear(3, 3)


class Patches(nn.Module):
    def __init__(self, positions):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, 8, stride=8)
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, 16))


REFUSED = {
    "a longer vocabulary": (table(12), table(10), {}),
    "square matrices": (layers(), turned(), {}),
    "NaN": (layers(), changed(layers(), lambda value: value.fill_(torch.nan)), {}),
    "too great for float16": (layers().half(), changed(layers(), lambda value: value.fill_(1e6)), {}),
    "fractions into whole numbers": (Counting(torch.int32), Counting(torch.float32), {}),
    "two places": (nn.ModuleDict({"rgb": net(), "depth": net()}), net(), {}),
    "two networks": (net(), {"student": net().state_dict(), "teacher": net().state_dict()}, {}),
    "two networks under prefixes": (net(), nn.ModuleDict({"one": net(), "two": net()}), {}),
    "strict": (nn.ModuleDict({"net": net(), "new": net()}), nn.ModuleDict({"net": net()}), {"strict": True}),
    "no square grid": (Patches(12), Patches(16), {}),
}


def tied():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    file = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    model["a"].weight = model["b"].weight
    return model, file, {}


REFUSED["one gain tied"] = tied()


def refusal(model, checkpoint, given):
    """Return what speaks against a load; nothing where it is carried out."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        tg.load(model, checkpoint, **given)
    except tg.PlanRefusedError as error:
        return error.objections
    finally:
        model.load_state_dict(before)
    return ()


def remedies(text):
    """Return the keyword arguments that a text spells with their values, as it spells them.

    Those with a gap for what only the user knows, such as `(height, width)`, are left out.
    """
    for found in _pattern().finditer(text):
        if found["kind"]:
            policy = tg.Policy(**{found["kind"]: tg.Verdict[found["verdict"]]})
            yield found[0], {"policy": policy}
        elif found["value"]:
            with suppress(ValueError):
                yield found[0], {found["name"]: ast.literal_eval(found["value"])}


@pytest.mark.parametrize("case", REFUSED)
def test_every_remedy_that_is_spelled_out_settles_what_it_is_named_for(case):
    model, checkpoint, given = REFUSED[case]
    objections = refusal(model, checkpoint, given)
    assert objections
    for objection in objections:
        for spelled, remedy in remedies(objection.text):
            left = refusal(model, checkpoint, given | remedy)
            assert objection.names not in [other.names for other in left], spelled


def plain(value):
    """Return a value as JSON has it: without tuples."""
    return value if isinstance(value, tg.Policy) else json.loads(json.dumps(value))


@pytest.mark.parametrize("case", REFUSED)
def test_the_command_line_spells_the_same_remedy(case):
    for objection in refusal(*REFUSED[case]):
        for spelled, remedy in remedies(objection.text):
            typed = shlex.split(as_typed(spelled))
            parsed = click.Command("plan", params=with_options(*PLAN_OPTIONS)(lambda: None).__click_params__[::-1])
            said = keyword_arguments(parsed.make_context("plan", typed).params)
            name, value = next(iter(remedy.items()))
            assert plain(said[name]) == plain(value), typed


def test_most_refusals_spell_a_remedy():
    silent = {case for case, told in REFUSED.items() if not any(list(remedies(o.text)) for o in refusal(*told))}
    assert silent <= {"one gain tied"}, "nothing that can be said settles it"
