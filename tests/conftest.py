"""Every test starts from the same random numbers, so that a failure comes back when it is looked for."""

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that tests compare with draw from it
    torch.manual_seed(0)
