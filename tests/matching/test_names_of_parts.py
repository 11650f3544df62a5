"""Names tell layers of one shape apart where they name the parts that these belong to."""

import pytest

from torchgraft.core.dtypes import DType
from torchgraft.core.match import Leaf
from torchgraft.matching.evidence.scores import gather
from torchgraft.matching.judging.rivals import rivals_of
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import group


def test_what_is_translated_stays_so_when_it_is_read_again():
    assert canonical("attn.norm") == canonical("attention.self.layer_norm") == ("attn", "norm", "@1")


def norms(*names):
    paths = [f"block.{n}.{name}" for n in range(2) for name in names]
    return group(
        [Leaf(name=f"{p}.weight", shape=(8,), dtype=DType.F32, keys=(p,), order=at) for at, p in enumerate(paths)]
    )


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("at", [0, 1])
def test_a_norm_inside_an_attention_is_not_the_one_before_it(at, side):
    sources, targets = (
        norms("norm1", "attn.norm", "norm2"),
        norms("layer_norm_1", "attention.self.layer_norm", "layer_norm_2"),
    )
    assert 1 - at not in rivals_of(at, at, gather(sources, targets), side)
