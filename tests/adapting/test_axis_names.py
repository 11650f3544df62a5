"""Rows and channels follow names; what has no name in the file is said, and starts as the caller says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.core.errors import UsageError

words = st.lists(st.sampled_from([f"w{n}" for n in range(12)]), min_size=1, max_size=8, unique=True)


def wanted(old, names, initial):
    """Return a table [rows, 3] under `names`, from the table `old` as a dict of rows; the slow and plain way."""
    mean = torch.stack(list(old.values())).mean(0)
    fill = {"zero": torch.zeros(3), "mean": mean}.get
    return torch.stack(
        [
            old[name] if name in old else fill(initial, None) if initial != "fresh" else torch.full((3,), -1.0)
            for name in names
        ]
    )


@settings(max_examples=60, deadline=None)
@given(words, words, st.sampled_from(("fresh", "zero", "mean")), st.booleans(), st.integers(0, 1))
def test_indices_follow_names_on_any_axis(old, new, initial, as_dict, dim):
    def table(count):
        return nn.ParameterDict({"table": torch.full((count, 3) if dim == 0 else (3, count), -1.0)})

    model, value = table(len(new)), torch.randn(len(old), 3)
    given_names = [{name: at for at, name in enumerate(side)} if as_dict else side for side in (old, new)]
    names = tg.AxisNames(*given_names, dim=dim, new=initial)
    source = {"table": value if dim == 0 else value.T.contiguous(), "other": torch.ones(1)}
    known = [name for name in new if name in old]
    if not known:
        assert not tg.plan(model, source, axis_names={"table": names}).adapted
        return
    report = tg.load(model, source, axis_names={"table": names})
    got = model["table"] if dim == 0 else model["table"].T
    torch.testing.assert_close(got.data, wanted(dict(zip(old, value, strict=True)), new, initial))
    masks = tg.loaded_masks(model, report)["table"]
    assert (masks if dim == 0 else masks.T)[:, 0].tolist() == [name in old for name in new]
    assert report.plan.coverage.target == pytest.approx(len(known) / len(new))


def test_a_dict_may_leave_out_padding_and_says_so():
    model = nn.Embedding(8, 2)
    names = tg.AxisNames({"a": 0, "b": 2}, {"b": 0, "c": 5}, new="zero")
    report = tg.load(model, {"weight": torch.arange(8.0).reshape(4, 2)}, axis_names={"weight": names})
    assert model.weight[0].tolist() == [4.0, 5.0]
    assert not model.weight[1:].any()
    assert "c, 6 without a name: zero" in str(report)
    assert "rows 0 of 8 from the file" in str(report)


def test_several_rows_of_one_name_move_together():
    model = nn.Linear(2, 6, bias=False)
    names = tg.AxisNames("ab", "bca", each=2)
    before = model.weight.detach().clone()
    tg.load(model, {"weight": torch.arange(8.0).reshape(4, 2)}, axis_names={"weight": names})
    assert model.weight[[0, 1, 4, 5], 0].tolist() == [4.0, 6.0, 0.0, 2.0]
    assert torch.equal(model.weight[2:4], before[2:4])


def test_input_channels_in_another_order():
    old, new = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    report = tg.load(new, old, axis_names={"weight": tg.AxisNames("RGB", ["B", "G", "R", "infrared"], dim=1)})
    assert torch.equal(new.weight[:, [2, 1, 0]], old.weight)
    assert "input channels follow 3 shared names; infrared: fresh" in str(report)
    assert "input channels 0-2 of 4 from the file" in str(report)


@pytest.mark.parametrize("new", ["fresh", "zero", "mean"])
def test_tables_grow_at_their_end_as_said(new):
    model, old = nn.Embedding(6, 3), torch.randn(4, 3)
    before = model.weight.detach().clone()
    report = tg.load(model, {"weight": old}, grow_rows={"weight": new})
    start = {"fresh": before[4:], "zero": torch.zeros(2, 3), "mean": old.mean(0).expand(2, 3)}[new]
    torch.testing.assert_close(model.weight.data, torch.cat([old, start]))
    assert "rows 0-3 of 6 from the file" in str(report)
    assert report.plan.coverage.target_filled == 12


@pytest.mark.parametrize(("rule", "kept"), [("fresh", None), ("zero", 0.0)])
def test_channels_behind_the_old_ones_are_told_apart(rule, kept):
    old, new = nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)
    before = new.weight.detach().clone()
    report = tg.load(new, old, in_channels={"weight": rule})
    assert torch.equal(new.weight[:, :3], old.weight)
    assert torch.equal(new.weight[:, 3:], before[:, 3:] if kept is None else torch.zeros(4, 2, 3, 3))
    assert tg.loaded_masks(new, report)["weight"][0, :, 0, 0].tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tg.AxisNames(["a", "a"], ["b"]), "'a' more than once"),
        (lambda: tg.AxisNames({"a": 1, "b": 1}, ["b"]), "two names stand for one index"),
        (lambda: tg.AxisNames("ab", "ab", new="random"), "use one of 'fresh'"),
        (lambda: tg.AxisNames("ab", "ab", each=2, new="mean"), "mix indices"),
        (lambda: tg.AxisNames("ab", "ab", each=0), "each=0"),
    ],
)
def test_names_that_make_no_sense(make, said):
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"axis_names": {"weight": tg.AxisNames("ab", "abc")}}, "has 3 along axis 0 in the file, but the 2 names"),
        ({"axis_names": {"wight": tg.AxisNames("abc", "abc")}}, "did you mean 'weight'"),
        ({"axis_names": {"weight": tg.AxisNames("abc", "abcd", dim=1)}}, "differ along other axes"),
        ({"axis_names": {"weight": ("abc", "abc")}}, "give AxisNames"),
        ({"grow_rows": ["wieght"]}, "grow_rows: no tensor of the model is called 'wieght'"),
        ({"grow_rows": {"weight": "random"}}, "use one of 'fresh'"),
        ({"in_channels": {"conv.weight": "zero"}}, "no tensor of the model is called"),
    ],
)
def test_what_was_said_must_fit_both_sides(asked, said):
    model = nn.Linear(2, 4, bias=False)
    before = model.weight.detach().clone()
    with pytest.raises(UsageError, match=said):
        tg.load(model, {"weight": torch.ones(3, 2)}, **asked)
    assert torch.equal(model.weight, before)


def test_what_cannot_be_done_to_a_parametrized_head_is_refused():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4, bias=False))
    source = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4, bias=False))
    plan = tg.plan(model, source, axis_names={"parametrizations": tg.AxisNames("abcd", "dcba")})
    assert plan.refusals


def test_names_of_an_axis_that_is_not_there_are_an_error():
    with pytest.raises(tg.UsageError, match=r"axis_names=\{'weight': ...\}: dim=2 is none of the 2 axes"):
        tg.plan(
            nn.Embedding(3, 2), {"weight": torch.randn(3, 2)}, axis_names={"weight": tg.AxisNames("abc", "cab", dim=2)}
        )
