"""Members of enumerations that are pickled by their names, as Python 3.11.0 to 3.11.4 did."""

import pytest
import torch

import torchgraft as tg
from torchgraft.core.errors import UnsafeCheckpointError


class Way:
    """A class whose objects are pickled as what a call gives."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Called(Way):
    """The same, for what stands where a function is called."""

    def __call__(self):
        raise AssertionError("nothing of a file is called")


def saved(folder, value):
    torch.save({"weight": torch.arange(3.0), "way": value}, folder / "way.pt")
    return folder / "way.pt"


def test_a_member_is_a_fact_beside_the_tensors(tmp_path):
    model = torch.nn.Module()
    model.register_parameter("weight", torch.nn.Parameter(torch.zeros(3)))
    tg.load(model, saved(tmp_path, Way(getattr, (Way, "FAST"))))
    assert model.weight.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "asked", [(Way, "__init__"), (Way, "__dict__"), (print, "Real"), ("text", "upper"), (Way, "FAST", None)]
)
def test_any_other_attribute_is_refused(tmp_path, asked):
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.getattr"):
        tg.inspect(saved(tmp_path, Way(getattr, asked)))


def test_getattr_that_is_not_called_is_refused(tmp_path):
    with pytest.raises(UnsafeCheckpointError, match=r"refers to builtins\.getattr"):
        tg.inspect(saved(tmp_path, getattr))


def test_a_member_is_never_called(tmp_path):
    with pytest.raises(UnsafeCheckpointError, match="asks to call an object of"):
        tg.inspect(saved(tmp_path, Way(Called(getattr, (Way, "FAST")), ())))
