"""What a conversion does is found out, whatever it does to the data; what is no move is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import torchgraft as tg


def state(**shapes):
    g = torch.Generator().manual_seed(3)
    return {name.replace("__", "."): torch.randn(shape, generator=g) for name, shape in shapes.items()}


def reproduces(found, convert, given):
    made = found.convert({k: v.clone() for k, v in given.items()})
    wanted = convert({k: v.clone() for k, v in given.items()})
    assert all(made[n].dtype == v.dtype and torch.equal(made[n], v) for n, v in wanted.items() if n in made)
    assert set(made) | {c.spec.name for c in found.computed} == set(wanted)


def heads_apart(w, heads):
    return w.view(heads, w.shape[0] // heads // 2, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


def turns(q, k, v, heads):
    return torch.stack([x.view(heads, -1, x.shape[-1]) for x in (q, k, v)], 1).reshape(-1, q.shape[-1])


def experts(s, turned):
    stacked = [torch.cat([s[f"e.{i}.g"], s[f"e.{i}.u"]]) for i in range(3)]
    return torch.stack([w.t() for w in stacked] if turned else stacked)


QKV = {"q": (8, 6), "k": (8, 6), "v": (8, 6)}
EXPERTS = {f"e__{i}__{part}": (4, 6) for i in range(3) for part in "gu"}
CASES = {
    "transpose": ({"w": (4, 6)}, lambda s: s["w"].t(), "transpose"),
    "conv from the other order": ({"w": (3, 5, 2, 4)}, lambda s: s["w"].permute(3, 2, 0, 1), "permute 3, 2, 0, 1"),
    "pointwise from the other order": ({"w": (1, 1, 2, 4)}, lambda s: s["w"].permute(3, 2, 0, 1), "permute 3, 2, 0, 1"),
    "flat": ({"w": (3, 2, 2, 2)}, lambda s: s["w"].flatten(1), "reshape to [3, 8]"),
    "some rows": ({"w": (9, 4)}, lambda s: s["w"][3:6], "rows 3:6 of 9"),
    "some columns": ({"w": (9, 4)}, lambda s: s["w"][:, 1:3], "dim 1 1:3 of 4"),
    "a row": ({"w": (9, 4)}, lambda s: s["w"][2], "index 2 along dim 0"),
    "the first position": ({"w": (1, 5, 4)}, lambda s: s["w"][:, :1], "dim 1 0:1 of 5"),
    "the others": ({"w": (1, 5, 4)}, lambda s: s["w"][:, 1:], "dim 1 1:5 of 5"),
    "a corner": ({"w": (6, 8)}, lambda s: s["w"][2:4, 4:], "rows 2:4 of 6, dim 1 4:8 of 8"),
    "joined": (QKV, lambda s: torch.cat([s["q"], s["k"], s["v"]]), "joined along rows"),
    "joined columns": (QKV, lambda s: torch.cat([s["q"], s["v"]], 1), "joined along dim 1"),
    "joined and transposed": (QKV, lambda s: torch.cat([s["q"], s["k"]]).t(), "transpose of each, joined along dim 1"),
    "stacked": (QKV, lambda s: torch.stack([s["q"], s["k"]], 1), "stacked along a new dim 1"),
    "parts in another order": ({"w": (9, 4)}, lambda s: torch.cat([s["w"][6:], s["w"][:3], s["w"][3:6]]), None),
    "heads apart": ({"w": (16, 6)}, lambda s: heads_apart(s["w"], 2), None),
    "taking turns": (QKV, lambda s: turns(s["q"], s["k"], s["v"], 4), None),
    "experts": (EXPERTS, lambda s: experts(s, turned=False), None),
    "experts turned": (EXPERTS, lambda s: experts(s, turned=True), None),
    "every third": ({"w": (9, 4)}, lambda s: s["w"][::3], None),
    "backwards": ({"w": (5, 4)}, lambda s: s["w"].flip(0), "rows 4, 3, 2, 1, … (5 in all)"),
    "shuffled": ({"w": (6, 4)}, lambda s: s["w"][[3, 1, 5, 0, 2, 4]], None),
    "heads repeated": ({"w": (4, 6)}, lambda s: s["w"].view(2, 2, 6).repeat_interleave(2, 0).reshape(8, 6), None),
    "expanded": ({"w": (1, 6)}, lambda s: s["w"].expand(3, 6), None),
    "a window's order": ({"w": (4, 12)}, lambda s: s["w"].view(4, 4, 3)[:, [0, 2, 1, 3]].transpose(1, 2).flatten(1), None),
    "no k bias": ({"q": (4,), "v": (4,)}, lambda s: torch.cat([s["q"], torch.zeros(4), s["v"]]), "joined along rows, 4 zeros inserted at rows 4:8"),
    "padded": ({"w": (5, 3)}, lambda s: F.pad(s["w"], (0, 0, 0, 3)), "3 zeros inserted at rows 5:8"),
    "padded by ones": ({"w": (5, 3)}, lambda s: F.pad(s["w"], (0, 0, 0, 3), value=1), None),
    "diagonal": ({"w": (5, 5)}, lambda s: s["w"].diagonal(), None),
    "a triangle": ({"w": (5, 5)}, lambda s: s["w"][torch.triu_indices(5, 5).unbind()], None),
    "scalar": ({"w": (5, 5)}, lambda s: s["w"][2, 3], None),
    "numbers": ({"w": (2,)}, lambda s: torch.arange(6).view(1, 6), "6 given values"),
    "ones": ({"w": (2,)}, lambda s: torch.ones(6), "ones"),
    "half": ({"w": (4, 6)}, lambda s: s["w"].t().half(), "transpose, cast to float16"),
    "rounded": ({"w": (4, 6)}, lambda s: s["w"].bfloat16().float(), "cast to bfloat16, cast to float32"),
    "mixed types": (QKV, lambda s: torch.cat([s["q"].double(), s["k"].double()]), None),
    "through numpy": ({"w": (4, 6)}, lambda s: torch.from_numpy(s["w"].numpy().T.copy()), "transpose"),
    "numpy itself": ({"w": (4, 6)}, lambda s: s["w"].numpy().T, "transpose"),
    "nothing": ({"w": (4, 6)}, lambda s: s["w"][:0], None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_move_is_learned_and_gives_the_same_to_the_last_bit(case, tmp_path):
    shapes, make, words = CASES[case]

    def convert(s):
        made = make(s)
        return {"out": made if isinstance(made, torch.Tensor) else torch.from_numpy(made.copy())}

    given = state(**shapes)
    found = tg.learn(convert, given)
    assert found.complete, found.computed
    reproduces(found, convert, given)
    output = found.by_name["out"]
    assert len(output.feeds) <= 12
    if words is not None:
        assert words in str(found)
    found.save(tmp_path / "learned.json")
    again = tg.Learned.read(tmp_path / "learned.json")
    assert (again.outputs, again.sources) == (found.outputs, found.sources)


REVERSIBLE = [
    "transpose", "conv from the other order", "flat", "joined", "joined and transposed", "parts in another order", "heads apart",
    "taking turns", "experts", "experts turned", "backwards", "shuffled", "heads repeated", "no k bias", "padded by ones",
    "mixed types", "stacked",
]  # fmt: skip


@pytest.mark.parametrize("case", REVERSIBLE)
def test_the_inverse_gives_the_source_back(case):
    shapes, make, _ = CASES[case]
    names = {"joined and transposed": "qk", "stacked": "qk", "mixed types": "qk"}.get(case)
    given = {n: v for n, v in state(**shapes).items() if names is None or n in names}
    found = tg.learn(lambda s: {"out": make(s)}, given)
    back = found.inverse()
    values = back.convert(found.convert(given))
    assert set(values) == set(given)
    assert all(torch.equal(values[n], given[n]) and values[n].dtype == given[n].dtype for n in given)
    assert str(back)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda s: {"out": s["a"][:2]}, r"leaves out a \(12 of its 24 elements\), b \(all of its 24 elements\)"),
        (lambda s: {"a": s["a"].half(), "b": s["b"]}, "rounds a"),
    ],
)
def test_no_inverse_where_something_is_lost(make, text):
    with pytest.raises(tg.UsageError, match=text):
        tg.learn(make, state(a=(4, 6), b=(4, 6))).inverse()


NO_MOVES = {
    "scaled": lambda s: s["a"] * 0.125,
    "one added": lambda s: s["a"] + 1,
    "negated": lambda s: -s["a"],
    "magnitudes": lambda s: s["a"].abs(),
    "mean": lambda s: s["a"].mean(0),
    "one row scaled": lambda s: torch.cat([s["a"][:3], s["a"][3:] * 2]),
    "resampled": lambda s: F.interpolate(s["a"][None], size=9, mode="linear")[0],
    "reversed digits": lambda s: 255 - s["a"],
    "nearest": lambda s: s["a"].clamp(0, 1e9),
}


@pytest.mark.parametrize("case", NO_MOVES)
def test_what_is_computed_is_named_with_its_source(case):
    found = tg.learn(lambda s: {"kept": s["b"], "out": NO_MOVES[case](s)}, state(a=(4, 6), b=(4, 6), c=(3,)))
    assert [c.spec.name for c in found.computed] == ["out"]
    assert found.computed[0].keys == ("a",)
    assert found.dropped == ("c",)
    assert "out" in str(found)
    assert "computed" in str(found)
    assert set(found.by_name) == {"kept"}


def test_all_sources_of_a_computed_tensor_are_named_and_no_other():
    given = state(**{f"t{i}": (3,) for i in range(9)})
    found = tg.learn(lambda s: {"out": s["t1"] + s["t6"] * s["t7"]}, given)
    assert found.computed[0].keys == ("t1", "t6", "t7")


def test_what_is_drawn_at_random_is_said_to_be():
    found = tg.learn(lambda s: {"out": torch.randn(3), "kept": s["a"]}, state(a=(4,)))
    assert "drawn at random" in found.computed[0].why


def test_a_function_may_change_what_it_is_given_and_return_nothing():
    def convert(s):
        s["new"] = s.pop("a").t_()
        s["b"][0] = 0

    given = state(a=(4, 6), b=(3, 2))
    found = tg.learn(convert, given)
    assert found.by_name["new"].keys == ("a",)
    assert torch.equal(found.convert(given)["b"], torch.cat([torch.zeros(1, 2), given["b"][1:]]))


def test_what_is_given_stays_as_it_was():
    given = state(a=(4, 6))
    before = {n: v.clone() for n, v in given.items()}
    tg.learn(lambda s: {"a": s["a"].zero_()}, given)
    assert torch.equal(given["a"], before["a"])


def test_any_loading_code_can_be_learned_from_the_model_that_it_fills():
    class Old(torch.nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            if prefix + "kernel" in state_dict:
                state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel").t()
            super()._load_from_state_dict(state_dict, prefix, *args)

    def convert(s):
        model = torch.nn.Sequential(Old(6, 4))
        model.load_state_dict(s)
        return model

    found = tg.learn(convert, state(**{"0__kernel": (6, 4), "0__bias": (4,)}))
    assert found.by_name["0.weight"].keys == ("0.kernel",)
    assert found.complete


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])  # fmt: skip
def test_every_element_type_is_learned(dtype):
    given = {"a": torch.zeros(40, 30, dtype=dtype), "b": torch.zeros(7, dtype=dtype)}
    found = tg.learn(lambda s: {"out": s["a"].t(), "b": s["b"]}, given)
    assert found.by_name["out"].feeds[0].ops[0].name == "transpose"
    assert found.complete


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (lambda s: s["missing"], "KeyError"),
        (lambda s: 3, "returns an int"),
        (lambda s: {"model": {"a": s["a"]}}, r"\['model'\]"),
        (lambda s: {"a": s["a"][: int(s["a"].reshape(-1)[0]) + 1]}, r"makes a \[1, 6\] float32 and \[4, 6\]"),
    ],
)
def test_a_conversion_that_cannot_be_learned_is_refused_with_the_reason(convert, text):
    with pytest.raises(tg.UsageError, match=text):
        tg.learn(convert, state(a=(4, 6)))


def test_heads_with_q_k_and_v_each_are_taken_apart_and_put_together_again():
    heads, size, width = 4, 3, 12

    def convert(s):
        w = s["query_key_value.weight"].view(heads, 3, size, width)
        q, k, v = (w[:, i].reshape(heads * size, width) for i in range(3))
        return {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v}

    found = tg.learn(convert, {"query_key_value.weight": torch.zeros(3 * heads * size, width)})
    assert found.complete
    reproduces(found, convert, state(query_key_value__weight=(3 * heads * size, width)))
    assert found.inverse().by_name["query_key_value.weight"].keys == ("q_proj.weight", "k_proj.weight", "v_proj.weight")


@st.composite
def chains(draw):
    """A tensor, and random moves of it one after the other."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    value = torch.arange(torch.Size(shape).numel()).reshape(shape)
    steps, steps_of = [], []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["permute", "slice", "reshape", "select", "cat"]))
        if kind == "permute":
            dims = draw(st.permutations(range(value.ndim)))
            steps_of.append(lambda t, dims=dims: t.permute(dims))
        elif kind == "slice":
            dim = draw(st.integers(0, value.ndim - 1))
            start = draw(st.integers(0, value.shape[dim] - 1))
            stop = draw(st.integers(start + 1, value.shape[dim]))
            steps_of.append(lambda t, dim=dim, start=start, stop=stop: t.narrow(dim, start, stop - start))
        elif kind == "reshape":
            n = value.numel()
            first = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
            steps_of.append(lambda t, first=first: t.reshape(first, -1))
        elif kind == "select":
            dim = draw(st.integers(0, value.ndim - 1))
            picks = draw(st.lists(st.integers(0, value.shape[dim] - 1), min_size=1, max_size=5))
            steps_of.append(lambda t, dim=dim, picks=picks: t.index_select(dim, torch.tensor(picks)))
        else:
            dim = draw(st.integers(0, value.ndim - 1))
            steps_of.append(lambda t, dim=dim: torch.cat([t, t], dim))
        step = steps_of[-1]
        if step(value).numel() <= 400:
            value = step(value)
            steps.append(step)
    return shape, steps


@settings(max_examples=80, deadline=None)
@given(chains())
def test_any_chain_of_moves_is_learned(chain):
    shape, steps = chain

    def convert(s):
        value = s["w"]
        for step in steps:
            value = step(value)
        return {"out": value}

    given = {"w": torch.randn(shape)}
    found = tg.learn(convert, given)
    assert found.complete
    assert torch.equal(found.convert(given)["out"], convert(given)["out"])
