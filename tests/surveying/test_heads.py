"""The number of heads is asked of code of others, which may raise whatever it likes."""

import pytest
from torch import nn

import torchgraft as tg
from torchgraft.surveying.slots import head_counts


class RaisingAttributes:
    """A configuration whose values differ per layer: asked for one of them without a layer, it raises."""

    def __init__(self, error, **stated):
        self.__dict__.update(stated, error=error)

    def __getattr__(self, name):
        raise self.__dict__["error"](f"{name} has a value for each layer")


class RaisingEntries(dict):
    def __init__(self, error, **stated):
        super().__init__(stated)
        self.error = error

    def get(self, name, default=None):
        if name in self:
            return self[name]
        raise self.error(name)


KINDS = pytest.mark.parametrize("kind", [RaisingAttributes, RaisingEntries])
ERRORS = pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError, AttributeError, NotImplementedError])


def with_config(config):
    model = nn.Sequential(nn.Linear(4, 4))
    model.config = config
    return model


@KINDS
@ERRORS
def test_a_configuration_that_raises_says_nothing(kind, error):
    model = with_config(kind(error))
    assert head_counts(model.named_modules()) == {}
    source = nn.Sequential(nn.Linear(4, 4))
    assert tg.plan(model, source).coverage.target == 1
    assert tg.load(model, source).plan.coverage.target == 1


@KINDS
@ERRORS
def test_what_it_says_under_another_name_counts(kind, error):
    assert head_counts(with_config(kind(error, n_head=3)).named_modules()) == {"": 3}


def test_a_module_whose_own_image_size_raises_gets_guessed_inputs_all_the_same():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        @property
        def img_size(self):
            raise RuntimeError

        def forward(self, image):
            return self.conv(image)

    source, model = Net(), Net()
    report = tg.load(model, source)
    assert tg.verify(model, source, "guess", plan=report).passed
