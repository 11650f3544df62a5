"""The colour of the first line: good news is green, a question or a remark yellow, a failure red."""

from dataclasses import replace

import pytest
import torch

import torchgraft as tg
from torchgraft.core.results.inspection import DigestCheck
from torchgraft.reporting.checkpoint_views import inspection_view

NET = {"weight": torch.ones(3, 3), "bias": torch.ones(3)}


def test_what_leaves_nothing_to_say_is_good():
    assert inspection_view(tg.inspect(NET)).tone == "good"


def test_networks_that_fit_equally_ask_for_care():
    found = tg.inspect({"student": NET, "teacher": NET})
    assert found.rivals
    assert inspection_view(found).tone == "care"


def test_strange_values_ask_for_care():
    found = tg.inspect({"bn.running_var": torch.zeros(16), "bn.weight": torch.ones(16)}, statistics=True)
    assert inspection_view(found).tone == "care"


@pytest.mark.parametrize(("differing", "tone"), [((), "good"), (("weight",), "bad")])
def test_a_digest_that_does_not_hold_is_bad(differing, tone):
    checked = DigestCheck(compared=2, differing=differing, missing=(), without=())
    assert inspection_view(replace(tg.inspect(NET), verification=checked)).tone == tone


def test_tensors_that_are_in_several_networks_count_once_in_the_first_line():
    found = tg.inspect({"student": NET, "teacher": NET})
    assert [network.tensors for network in found.networks] == [4, 2, 2]
    assert found.held == (4, 2 * (9 + 3) * 4)
    assert str(found).splitlines()[0] == "<dict>: dict, 4 tensors in 3 networks, 96 B"
