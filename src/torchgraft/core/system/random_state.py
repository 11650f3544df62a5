"""The random states of Python, numpy and torch: set from a seed for a while, and put back as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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

    kept = (random.getstate(), np.random.get_state())  # noqa: NPY002  # as above
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if used else []):
        reseed()
        try:
            yield reseed
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002  # as above
