"""What an element type holds, beside what torch's casts leave of every value of the small types."""

import pytest
import torch

from torchgraft.core.dtypes import DType

SMALL = [kind for kind in DType if kind.itemsize <= 2 and hasattr(torch, kind.label)]
REAL = [kind for kind in DType if kind.is_float and hasattr(torch, kind.label)]


def finite_values(kind):
    """Return every finite value of a small type."""
    if kind is DType.BOOL:
        return torch.tensor([False, True])
    patterns = torch.arange(1 << 8 * kind.itemsize, dtype=torch.int32)
    values = patterns.to(torch.uint8 if kind.itemsize == 1 else torch.uint16).view(getattr(torch, kind.label))
    return values[values.to(torch.float64).isfinite()] if kind.is_float else values


@pytest.mark.parametrize("kind", REAL, ids=str)
@pytest.mark.parametrize("given", SMALL, ids=str)
def test_a_type_holds_another_where_every_finite_value_comes_through(kind, given):
    values = finite_values(given)
    exact = values.to(torch.float64)
    assert kind.holds(given) == torch.equal(values.to(getattr(torch, kind.label)).to(torch.float64), exact)
