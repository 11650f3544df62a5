"""Whether names come as a model registers them: sorted, in shards, by type, shuffled and backwards they don't."""

import random

import pytest
from torch import nn

from torchgraft.core.dtypes import DType
from torchgraft.core.registration import as_registered


def block(width=4):
    return nn.ModuleDict(
        {"start": nn.Linear(width, width), "norm": nn.BatchNorm1d(width), "end": nn.Linear(width, width)}
    )


def without_biases():
    parts = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down", "norm_in", "norm_out")
    return ["embed.weight", *(f"h.{n}.{part}.weight" for n in range(24) for part in parts), "head.weight"]


NETS = {
    "blocks": list(nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3), "blocks": nn.ModuleList(block() for _ in range(12))}).state_dict()),
    "without biases": without_biases(),
    "a few layers": list(nn.ModuleDict({name: nn.Linear(3, 3) for name in ("enter", "mid", "leave")}).state_dict()),
    "one list": [f"{n}.weight" for n in range(0, 40, 2)],
}  # fmt: skip


def told(names, types=None):
    return as_registered((name, (types or {}).get(name, DType.F32)) for name in names)


def in_shards(names, size):
    return [name for at in range(0, len(names), size) for name in sorted(names[at : at + size])]


@pytest.mark.parametrize("names", NETS.values(), ids=NETS)
def test_what_a_model_registers_is_told_from_all_other_orders(names):
    assert told(names)
    assert not told(sorted(names))
    assert not told(names[::-1])
    assert not told(random.Random(0).sample(names, len(names)))  # noqa: S311  # no secrets


@pytest.mark.parametrize(
    ("net", "size"),
    [*(("blocks", size) for size in (4, 6, 9, 50)), *(("without biases", size) for size in (9, 12, 50))],
)
def test_shards_that_are_each_sorted(net, size):
    assert not told(in_shards(NETS[net], size))


def test_types_that_follow_each_other_each_sorted():
    names = NETS["without biases"]
    types = {name: DType.F16 if "norm" in name else DType.F32 for name in names}
    assert told(names, types)
    assert not told(sorted(names, key=lambda name: (types[name].value, name)), types)
    assert not told(sorted(names), types)


def test_a_tensor_put_behind_all_others_says_nothing_of_these():
    assert told([*NETS["blocks"], "blocks.0.more.weight"])
    assert told([])
    assert told(["weight"])


def test_a_copy_under_other_names_shows_by_its_biases_that_it_was_sorted():
    copy = [name.replace("start", "a").replace("end", "z") for name in sorted(NETS["blocks"])]
    assert not told(copy)
