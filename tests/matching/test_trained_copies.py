"""Models that PEFT has wrapped: layers inside adapters, and modules trained as a whole beside what they were."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def plain(classes=5):
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    return nn.ModuleDict({"embed": nn.Embedding(11, 8), "layers": layers, "head": nn.Linear(8, classes)})


def wrapped(*adapters, classes=5):
    """As `get_peft_model` leaves it with `modules_to_save=["head"]`: an adapter beside each layer, a head for each adapter."""
    model = plain(classes)
    for number, layer in enumerate(model["layers"]):
        sizes = {"lora_A": (8, 2), "lora_B": (2, 8)}
        factors = {
            name: nn.ModuleDict({one: nn.Linear(*size, bias=False) for one in adapters}) for name, size in sizes.items()
        }
        model["layers"][number] = nn.ModuleDict({"base_layer": layer, **factors})
    heads = nn.ModuleDict({one: nn.Linear(8, classes) for one in adapters})
    model["head"] = nn.ModuleDict({"original_module": model["head"], "modules_to_save": heads})
    return nn.ModuleDict({"base_model": nn.ModuleDict({"model": model})})


@pytest.mark.parametrize("adapters", [("default",), ("default", "other")])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_a_module_that_is_trained_starts_as_what_it_was(adapters, is_sorted):
    source, model = plain(), wrapped(*adapters)
    state = source.state_dict()
    report = tg.load(model, dict(sorted(state.items())) if is_sorted else state)
    head = model["base_model"]["model"]["head"]
    for one in (head["original_module"], *head["modules_to_save"].values()):
        assert torch.equal(one.weight, source["head"].weight)
        assert torch.equal(one.bias, source["head"].bias)
    assert {step.slot.name.split(".")[-3] for step in report.plan.fresh} == {"lora_A", "lora_B"}
    assert "in whose place it is trained" in str(report)


def test_a_wrapped_file_has_values_of_its_own_for_both():
    source, model = wrapped("default"), wrapped("default")
    report = tg.load(model, source.state_dict())
    assert not report.plan.fresh
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in source.state_dict().items())


def test_a_head_for_other_classes_stays_fresh_in_both_places():
    model = wrapped("default", classes=3)
    report = tg.load(model, plain().state_dict())
    assert {s.slot.name.split(".head.")[1] for s in report.plan.fresh if ".head." in s.slot.name} == {
        f"{place}.{role}" for place in ("original_module", "modules_to_save.default") for role in ("weight", "bias")
    }


def test_the_caller_may_keep_the_trained_one_fresh():
    source, model = plain(), wrapped("default")
    report = tg.load(model, source.state_dict(), fresh=["base_model.model.head.modules_to_save"])
    assert torch.equal(model["base_model"]["model"]["head"]["original_module"].weight, source["head"].weight)
    assert {step.slot.owner for step in report.plan.fresh if "head" in step.slot.name} == {
        "base_model.model.head.modules_to_save.default"
    }
