"""The work of planning and of telling the plan grows with the number of tensors, and hardly faster."""

from __future__ import annotations

import cProfile
import gc
from functools import cache

import pytest
import torch

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.specs import Network, TensorSpec
from torchgraft.planning import make_plan
from torchgraft.request import make_request
from torchgraft.surveying import target_from_specs

OLD, NEW = ("mlp", "gate_proj", "up_proj", "down_proj"), ("moe", "w1", "w3", "w2")
# Of the file: what stands before its names, and what they are; how many times as many layers as the model it has.
NAMINGS = {
    "equal names": ("", OLD, 1),
    "a prefix": ("model.", OLD, 1),
    "other names": ("", NEW, 1),
    "twice the layers": ("", OLD, 2),
    "other names and twice the layers": ("", NEW, 2),
}
EXPERTS, LAYERS = (20, 40), (80, 10)
GROWN = [(naming, wider) for naming, (*_, times) in NAMINGS.items() for wider in (EXPERTS, LAYERS)[times - 1 :]]


class Given:
    """A checkpoint that is only names and shapes."""

    origin, format, metadata, warnings = "<specs>", "specs", {}, ()

    def __init__(self, specs):
        self.networks = (Network("", specs),)


def specs(layers, experts, prefix, parts):
    names = [(f"{prefix}layers.{n}.attn.{part}.weight", (8, 8)) for n in range(layers) for part in ("q", "k", "v", "o")]
    names += [
        (f"{prefix}layers.{n}.{parts[0]}.experts.{expert}.{part}.weight", (8, 16) if part == parts[-1] else (16, 8))
        for n in range(layers) for expert in range(experts) for part in parts[1:]
    ]  # fmt: skip
    return {name: TensorSpec(name, shape, DType.F32) for name, shape in names}


def calls(work):
    """How many functions are called, Python's own included: unlike time the same on each machine, however busy."""
    profile = cProfile.Profile()
    gc.collect()  # what frees objects of other tests counts as calls, too
    gc.disable()
    try:
        profile.runcall(work)
    finally:
        gc.enable()
    return sum(entry.callcount for entry in profile.getstats())


def planned_and_told(naming, layers, experts):
    """How many calls it takes to plan and to print the plan."""
    prefix, parts, times = NAMINGS[naming]
    source = specs(times * layers, experts, prefix, parts)
    target = target_from_specs(specs(layers, experts, "", OLD))
    return calls(lambda: str(make_plan(Given(source), target, make_request(on_doubt="take"))))


@cache
def with_few(naming):
    planned_and_told(naming, 20, 10)  # what is imported, and remembered of words, doesn't count
    return planned_and_told(naming, 20, 10)


@pytest.mark.parametrize(("naming", "wider"), GROWN)
def test_four_times_the_tensors_take_about_four_times_the_calls(naming, wider):
    assert 5 * with_few(naming) > planned_and_told(naming, *wider)


ASKED = {
    "renames": lambda n: {"rename": {f"old{i}.{{j}}.": f"new{i}.{{j}}." for i in range(n)}},
    "exact renames": lambda n: {"rename": {f"old{i}.{j}.w": f"new{i}.{j}.w" for i in range(n) for j in range(8)}},
    "fresh": lambda n: {"rename": {"old{x}.": "new{x}."}, "fresh": [f"new{i}.0." for i in range(n)]},
    "layers": lambda n: {"rename": {"old{x}.": "new{x}."}, "layers": {"new{i}": [*range(n)]}},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_four_times_the_rules_take_about_four_times_the_calls(asked):
    def ask(rules):
        source, target = ({f"{one}{i}.{j}.w": (3, 3) for i in range(rules) for j in range(8)} for one in ("old", "new"))
        known = [{key: TensorSpec(key, shape, DType.F32) for key, shape in side.items()} for side in (source, target)]
        request = make_request(on_doubt="take", **asked(rules))
        return calls(lambda: make_plan(Given(known[0]), target_from_specs(known[1]), request))

    ask(20)
    few = ask(80)
    assert ask(320) < 5 * few


def test_four_times_the_names_of_one_tensor_take_about_four_times_the_calls():
    def load(names):
        layers = [torch.nn.Linear(3, 3, bias=False) for _ in range(names)]
        for layer in layers:
            layer.weight = layers[0].weight
        model = torch.nn.Sequential(*layers)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        return calls(lambda: tg.plan(model, {**state, "0.weight": state["0.weight"]}))

    load(20)
    few = load(200)
    assert load(800) < 5 * few
