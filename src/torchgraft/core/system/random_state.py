"""The random states of Python, numpy and torch, devices included: put back as they were, and set from a seed for a while."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def kept_random_states() -> Callable[[], None]:
    """Return what puts all random states back as they are now.

    Devices are left alone that nothing has been asked of yet.
    """
    import numpy as np
    import torch

    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    own, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # users draw from it
    devices = torch.cuda.get_rng_state_all() if used else []

    def put_back() -> None:
        random.setstate(own)
        np.random.set_state(arrays)  # noqa: NPY002  # as above
        torch.set_rng_state(tensors)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return put_back


@contextmanager
def seeded(seed: int) -> Iterator[Callable[[], None]]:
    """Set all random states from a seed, and put them back at the end; gives a function that sets them once more.

    Devices are left alone that nothing has been asked of yet.
    """
    import numpy as np
    import torch

    def reseed() -> None:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # what users' code may draw from
        torch.manual_seed(seed)

    put_back = kept_random_states()
    try:
        reseed()
        yield reseed
    finally:
        put_back()
