"""Dictionaries of several state dicts: the model in parts, or several models of which one is meant."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def parts(**sizes):
    """Return a model of one linear layer for each part, from a size to a size."""
    return nn.ModuleDict({name: nn.Sequential(nn.Linear(*size)) for name, size in sizes.items()})


def filled_as(model, source, *names):
    return all(torch.equal(model[name][0].weight, source[name][0].weight) for name in names)


def kept_apart(source, wrapper=""):
    """Return a dictionary with a state dict for each part of a model."""
    return {
        part: {wrapper + name: value for name, value in child.state_dict().items()}
        for part, child in source.named_children()
    }


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("beside", [{}, {"epoch": 3}, {"mean": torch.zeros(3)}])
@pytest.mark.parametrize("nest", [lambda d: d, lambda d: {"state": d, "step": 1}])
def test_a_model_saved_in_parts_is_put_together_also_where_one_part_is_nearly_all(wrapper, beside, nest):
    """`{"backbone": ..., "head": ...}`: the backbone alone has more than 98 % of the elements, and the head counts."""
    source, model = (parts(backbone=(60, 60), head=(60, 1)) for _ in range(2))
    report = tg.load(model, nest(kept_apart(source, wrapper) | beside))
    assert filled_as(model, source, "backbone", "head")
    assert not report.plan.fresh
    assert any("'backbone'" in text or "backbone', " in text for text in report.plan.notes)


def test_a_head_saved_beside_a_backbone_that_has_another_name_is_not_lost():
    source = parts(backbone=(60, 60), head=(60, 1))
    model = parts(encoder=(60, 60), head=(60, 1))
    tg.load(model, kept_apart(source))
    assert torch.equal(model.encoder[0].weight, source.backbone[0].weight)
    assert filled_as(model, source, "head")


def test_two_networks_of_a_kind_go_to_the_parts_of_the_model_that_are_called_as_they_are():
    source, model = (parts(student=(6, 5), teacher=(6, 5)) for _ in range(2))
    tg.load(model, kept_apart(source) | {"epoch": 2})
    assert filled_as(model, source, "student", "teacher")


def test_two_networks_of_a_kind_beside_a_head_are_still_a_choice():
    """Which of the two the head belongs to isn't known."""
    file = kept_apart(parts(student=(60, 60), teacher=(60, 60), head=(60, 1)))
    with pytest.raises(tg.PlanRefusedError, match="'student', 'teacher'"):
        tg.load(parts(body=(60, 60), head=(60, 1)), file)


def test_a_part_that_the_whole_network_beside_it_holds_too_is_not_taken():
    whole, other, model = (parts(backbone=(60, 60), head=(60, 1)) for _ in range(3))
    tg.load(model, {"state_dict": whole.state_dict(), "head": other.head.state_dict()})
    assert filled_as(model, whole, "backbone", "head")


def test_an_average_beside_a_stray_tensor_is_no_live_network():
    """GAN checkpoints keep the averaged generator and a mean latent vector: the two together are no network."""
    average, model = nn.Linear(5, 4), nn.Linear(5, 4)
    report = tg.load(model, {"g_ema": average.state_dict(), "latent_avg": torch.zeros(7)})
    assert torch.equal(model.weight, average.weight)
    assert report.plan.network == "g_ema"
    assert not any("live weights" in text for text in report.plan.notes)
    assert not report.plan.unused


def test_live_weights_at_the_top_level_come_before_an_average_in_it():
    live, average, model = (nn.Linear(5, 4) for _ in range(3))
    tg.load(model, dict(live.state_dict()) | {"ema": average.state_dict()})
    assert torch.equal(model.weight, live.weight)


def test_a_head_for_other_classes_that_was_saved_apart_is_told():
    source, model = parts(backbone=(60, 60), head=(60, 7)), parts(backbone=(60, 60), head=(60, 2))
    plan = tg.load(model, kept_apart(source)).plan
    assert filled_as(model, source, "backbone")
    assert plan.by_name["head.0.weight"].why.text == "7 rows in the file, 2 in the model"
    assert {unused.spec.name for unused in plan.unused} == {"head.0.weight", "head.0.bias"}


@pytest.mark.parametrize("wrapper", ["", "params"])
def test_parts_called_as_those_of_the_model_are_counted_also_where_only_one_fits(wrapper):
    """Layers that the file holds stacked find no place; the table beside them passed for all of the file."""
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(3))})
    file = {
        "layers": {"kernel": torch.randn(3, 4, 4), "bias": torch.randn(3, 4)},
        "embed": {"weight": torch.randn(9, 4)},
    }
    plan = tg.plan(model, {wrapper: file} if wrapper else file)
    assert plan.network == wrapper
    assert {unused.spec.name for unused in plan.unused} == {"layers.kernel", "layers.bias"}
    assert plan.coverage.source_elements == 3 * 4 * 4 + 3 * 4 + 9 * 4
