import inspect
import re
from pathlib import Path

import pytest

import torchgraft as tg
from torchgraft.asked import Asked
from torchgraft.core.hints import did_you_mean
from torchgraft.request import request

KEYWORDS = tuple(Asked.__annotations__)


def test_the_typed_list_is_what_is_accepted():
    assert set(KEYWORDS) == set(inspect.signature(request).parameters)
    assert Asked.__required_keys__ == frozenset()


@pytest.mark.parametrize("name", KEYWORDS)
def test_each_keyword_is_explained(name):
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text(encoding="utf-8")
    assert re.search(rf"`{name}`", page)


@pytest.mark.parametrize("function", [tg.plan, tg.load])
def test_an_unknown_keyword_is_refused(function):
    with pytest.raises(TypeError, match="renam"):
        function({"w": [1.0]}, {}, renam={})


def test_near_names_are_suggested():
    assert did_you_mean("layer1.wieght", ["layer1.weight", "head.bias"]) == "; did you mean 'layer1.weight'?"
    assert did_you_mean("layer1", ["xyz"]) == ""
    assert did_you_mean("a", []) == ""


def test_control_characters_of_names_are_escaped():
    assert "\x1b" not in did_you_mean("layer\x1bx", ["layer\x1by"])
