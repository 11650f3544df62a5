"""Lists whose lines differ in sizes alone: one line, with the least and the greatest size of each dimension."""

import itertools
import re

from torch import nn

import torchgraft as tg
from torchgraft.reporting.folding import Row
from torchgraft.reporting.plan_rows import Facts, fold_sizes

WIDTHS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12)


def stack(kind: type[nn.Module], widths: tuple[int, ...] = WIDTHS) -> nn.Module:
    layers = [kind(a, b, 3) for a, b in itertools.pairwise(widths)]
    return nn.ModuleDict({"stages": nn.ModuleList(layers), "end": kind(widths[-1], 2, 1)})


def adapted(text: str) -> list[str]:
    return re.findall(r"(?m)^  \S+ \[.* <- .*", text.partition("adapted:")[2])


def test_steps_that_differ_in_size_alone_are_one_line():
    stages, end = adapted(str(tg.plan(stack(nn.Conv3d), stack(nn.Conv2d))))
    assert stages == (
        "  stages.{0-8}.weight [4..12, 3..11, 3, 3, 3] <- stages.{0-8}.weight [4..12, 3..11, 3, 3] "
        "(kernel 3x3 -> 3x3x3 shared over the depth): same name; kernel inflated over 3 steps of a new axis"
    )
    assert (
        end
        == "  end.weight [2, 12, 1, 1, 1] <- end.weight [2, 12, 1, 1] (reshape): same name; axes of size one set aside"
    )


def test_a_short_list_has_every_size():
    told = str(tg.plan(stack(nn.Conv3d, (3, 4, 5)), stack(nn.Conv2d, (3, 4, 5))))
    assert "stages.1.weight [5, 4, 3, 3, 3] <- stages.1.weight [5, 4, 3, 3]" in told


def test_what_differs_in_more_than_size_is_not_one_line():
    model = stack(nn.Conv3d)
    model["stages"][4] = nn.Conv3d(7, 8, (5, 3, 3))
    told = adapted(str(tg.plan(model, stack(nn.Conv2d))))
    assert any("stages.4.weight [8, 7, 5, 3, 3]" in line and "over 5 steps" in line for line in told)
    assert any("stages.{0-3,5-8}.weight [4..12, 3..11, 3, 3, 3]" in line for line in told)


def test_names_that_are_cut_for_their_length_may_be_equal():
    rows = [Row("cut…name", shape=(n,) * (1 + n % 2), facts=Facts("", (n,))) for n in range(20)]
    (one,) = fold_sizes(rows)
    assert one.shapes == (("0..18",), ("1..19", "1..19"))
    assert one.count == 20
