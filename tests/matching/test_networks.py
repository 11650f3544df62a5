"""Which network of a file is taken, and when that is for the caller to say."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft import UsageError
from torchgraft.core.dtypes import DType
from torchgraft.core.specs import Network, Slot, TensorSpec
from torchgraft.matching import choose, only


def specs(names, size=4):
    return {name: TensorSpec(name, (size, size), DType.F32) for name in names}


def slots(names):
    return [Slot(spec=spec, order=at) for at, spec in enumerate(specs(names).values())]


def net(path, names, role="model", size=4):
    return Network(path, specs(names, size), role)


NAMES = [f"layer{n}.weight" for n in range(10)]


def test_the_network_that_shares_most_is_taken_and_lesser_ones_are_no_rivals():
    chosen = choose([net("old", NAMES[:6]), net("new", NAMES)], slots(NAMES), None)
    assert chosen.network.path == "new"
    assert chosen.rivals == ()
    assert "shares most" in chosen.note


def test_networks_that_share_as_much_are_rivals():
    chosen = choose([net("student", NAMES), net("teacher", NAMES)], slots(NAMES), None)
    assert (chosen.network.path, chosen.rivals) == ("student", ("teacher",))


def test_equal_names_count_more_than_equal_shapes():
    others = [f"other{n}.kernel" for n in range(10)]
    chosen = choose([net("a", others), net("b", NAMES[:5])], slots(NAMES), None)
    assert chosen.network.path == "b"


@pytest.mark.parametrize("order", [1, -1])
def test_live_weights_come_before_averaged_ones_wherever_they_stand(order):
    chosen = choose([net("model", NAMES), net("ema", NAMES, "ema")][::order], slots(NAMES), None)
    assert (chosen.network.path, chosen.rivals) == ("model", ())
    assert "live weights come before averaged ones" in chosen.note


def test_an_optimizer_is_never_taken_for_a_model():
    chosen = choose([net("optimizer", NAMES, "optimizer"), net("model", NAMES[:5])], slots(NAMES), None)
    assert chosen.network.path == "model"


def test_the_caller_decides_and_a_name_that_is_not_there_is_an_error():
    both = [net("model", NAMES), net("ema", NAMES, "ema")]
    assert choose(both, slots(NAMES), "ema").network.path == "ema"
    with pytest.raises(UsageError, match=r"prefer='emma'.*'model': model, 10 tensors; 'ema': ema"):
        choose(both, slots(NAMES), "emma")


def test_without_a_model_those_of_the_same_names_and_shapes_are_rivals():
    """Whatever model comes, it would fit both equally."""
    chosen = choose([net("student", NAMES), net("teacher", NAMES), net("other", NAMES[:3])], (), None)
    assert (chosen.network.path, chosen.rivals) == ("student", ("teacher",))
    assert choose([net("model", NAMES), net("ema", NAMES, "ema")], (), None).rivals == ()
    assert choose([net("small", NAMES), net("large", NAMES, size=8)], (), None).rivals == ()


def test_a_file_that_stands_for_a_model_must_not_hold_several_alike():
    assert only([net("model", NAMES), net("ema", NAMES, "ema")], "a.pt").path == "model"
    with pytest.raises(
        UsageError,
        match=r"a.pt stands for a model and holds several networks \('student': model, 10 tensors; 'teacher': model, 10 tensors\)",
    ):
        only([net("student", NAMES), net("teacher", NAMES)], "a.pt")


@pytest.mark.parametrize("prefer", ["ema", "ema_state_dict", "Averaging"])
def test_what_is_preferred_may_lie_in_a_network_that_fits_no_better_than_another(prefer):
    """Trainers keep averaged weights among their callbacks, under names of their own."""
    live, mean, model = (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(3))
    named = ({f"model.{name}": value for name, value in made.state_dict().items()} for made in (live, mean))
    file = {"state_dict": next(named), "callbacks": {"Averaging": {"ema_state_dict": next(named)}}}
    report = tg.load(model, file, prefer=prefer)
    assert all(torch.equal(value, mean.state_dict()[name]) for name, value in model.state_dict().items())
    assert report.plan.network == "callbacks"
