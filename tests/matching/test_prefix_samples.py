"""Prefixes are found from a sample of names; which ones were drawn must not decide."""

from __future__ import annotations

import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.names.prefixes import naming_of

PARTS = [
    f"{owner}.{role}" for owner in ("attn.q", "attn.k", "mlp.up", "mlp.down", "norm") for role in ("weight", "bias")
]
NAMES = [f"layers.{block}.experts.{expert}.{part}" for block in range(20) for expert in range(20) for part in PARTS]
ORDERS = {
    "as in the model": NAMES,
    "sorted": sorted(NAMES),
    "by the end": sorted(NAMES, key=lambda name: name[::-1]),
    "from the middle": NAMES[1003:] + NAMES[:1003],
}


def leaves(names):
    return [Leaf(name=name, shape=(2,), dtype=DType.F32, keys=(name,), order=at) for at, name in enumerate(names)]


@pytest.mark.parametrize("prefixes", [("module.", ""), ("", "model."), ("net.backbone.", "encoder.")])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_prefix_is_found_in_any_order_of_many_names(order, prefixes):
    old, new = prefixes
    naming = naming_of(leaves([old + name for name in order]), leaves([new + name for name in NAMES]))
    assert naming.prefixes == (prefixes,)
    assert len(naming.pairs) == len(NAMES)
