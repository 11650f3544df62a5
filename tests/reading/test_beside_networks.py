"""What lies beside a network's tensors: counters of the training loop are no weights, and tensors of objects are."""

import numpy as np
import pytest
import torch

import torchgraft as tg

STATE = {"fc.weight": torch.randn(3, 4), "fc.bias": torch.randn(3)}


def networks(content, path):
    torch.save(content, path)
    with tg.open_checkpoint(path) as source:
        return {network.path: (network.role, set(network.specs)) for network in source.networks}


@pytest.mark.parametrize(
    "beside",
    [
        {"global_step": torch.tensor(5)},
        {"iterations": torch.tensor([5])},
        {"best_acc1": torch.tensor(0.7), "epoch": torch.tensor(3)},
        {"rng_state": torch.get_rng_state()},
    ],
)
def test_counters_and_random_states_are_no_weights(beside, tmp_path):
    found = networks({"state_dict": STATE, **beside}, tmp_path / "a.pt")
    assert found == {"": ("other", set(beside)), "state_dict": ("model", set(STATE))}


@pytest.mark.parametrize(
    "beside", [{"global_step": torch.arange(2)}, {"fc.loss": torch.tensor(1.0)}, {"scale": torch.tensor(1.0)}]
)
def test_what_is_no_single_counter_may_be_a_weight(beside, tmp_path):
    found = networks({"state_dict": STATE, **beside}, tmp_path / "a.pt")
    assert found[""] == ("model", {*beside, *(f"state_dict.{name}" for name in STATE)})


class Holder:
    def __init__(self):
        self.weight, self.bias, self.rate = STATE["fc.weight"], STATE["fc.bias"], 0.1


def test_tensors_that_an_object_holds_are_found(tmp_path):
    found = networks({"model": Holder(), "epoch": 3}, tmp_path / "a.pt")
    assert found == {"model": ("model", {"weight", "bias"})}


def test_two_keys_that_are_written_alike_are_refused(tmp_path):
    torch.save({"model": {1: torch.ones(2), "1": torch.zeros(2)}}, tmp_path / "a.pt")
    with pytest.raises(tg.CorruptCheckpointError, match="two keys are both written '1'"):
        tg.open_checkpoint(tmp_path / "a.pt")


def test_states_of_generators_are_no_model(tmp_path):
    words = ("MT19937", np.arange(624, dtype=np.uint32), 624, 0, 0.0)
    states = {"numpy": words, "cpu": torch.get_rng_state(), "cuda": [torch.get_rng_state()]}
    torch.save(states, tmp_path / "rng_state.pth")
    found = tg.inspect(tmp_path / "rng_state.pth")
    assert {network.role for network in found.networks} == {"other"}
    assert "nothing in the file is known to be a model's weights" in str(found)
    torch.save({"weight": torch.rand(16)} | states, tmp_path / "mixed.pth")
    assert "model" in {network.role for network in tg.inspect(tmp_path / "mixed.pth").networks}
