"""Every test starts from the same random numbers, so that a failure comes back when it is looked for.

How busy the machine is fails no test: hypothesis doesn't look at the clock. It draws the same examples in each run, so that no
merge depends on luck; with `--hypothesis-profile=search` it draws new ones.
"""

import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("calm", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("calm")


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that tests compare with draw from it
    torch.manual_seed(0)


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises, also where the tests run in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
