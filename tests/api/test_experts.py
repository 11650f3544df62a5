"""Experts in one stack on one side and apart on the other: every expert lands in its place, or nothing is taken."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 6


class Apart(nn.Module):
    """Experts as modules: `experts.{e}.{up,down}.weight`."""

    def __init__(self, count, hidden, bias):
        super().__init__()
        self.gate = nn.Linear(WIDTH, count, bias=False)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(WIDTH, hidden, bias=bias), "down": nn.Linear(hidden, WIDTH, bias=bias)})
            for _ in range(count)
        )

    def forward(self, x):
        gates = self.gate(x).softmax(-1)
        return sum(gates[..., e, None] * m["down"](m["up"](x).relu()) for e, m in enumerate(self.experts))


class Stacked(nn.Module):
    """Experts as parameters: `experts.up` [E, hidden, width], or turned; biases `experts.up_bias`."""

    def __init__(self, count, hidden, bias, *, turned=False):
        super().__init__()
        self.gate = nn.Linear(WIDTH, count, bias=False)
        self.turned, self.bias = turned, bias
        self.experts = nn.Module()
        for name, out, inner in (("up", hidden, WIDTH), ("down", WIDTH, hidden)):
            shape = (count, inner, out) if turned else (count, out, inner)
            setattr(self.experts, name, nn.Parameter(torch.randn(shape)))
            if bias:
                setattr(self.experts, name + "_bias", nn.Parameter(torch.randn(count, out)))

    def _linear(self, name, x):
        weight = getattr(self.experts, name)
        out = torch.einsum("ebi,eio->ebo" if self.turned else "ebi,eoi->ebo", x, weight)
        return out + getattr(self.experts, name + "_bias")[:, None] if self.bias else out

    def forward(self, x):
        gates = self.gate(x).softmax(-1)
        out = self._linear("down", self._linear("up", x.expand(gates.shape[-1], *x.shape)).relu())
        return torch.einsum("be,ebo->bo", gates, out)


class Net(nn.Module):
    def __init__(self, kind, layers, count=3, hidden=10, *, bias=False, **more):
        super().__init__()
        self.stem = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "mlp": kind(count, hidden, bias, **more)})
            for _ in range(layers)
        )
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block["mlp"](block["norm"](x))
        return self.head(x)


def agree(model, old):
    x = torch.randn(5, 4)
    with torch.no_grad():
        return torch.allclose(model(x), old(x), atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_apart_into_a_stack(bias, turned, prefix):
    torch.manual_seed(0)
    old, model = Net(Apart, 2, bias=bias), Net(Stacked, 2, bias=bias, turned=turned)
    report = tg.load(model, {prefix + k: v for k, v in old.state_dict().items()})
    assert agree(model, old)
    step = report.plan.by_name["blocks.1.mlp.experts.up"]
    assert step.certainty is Certainty.CERTAIN  # row e of the router, which goes over, is for expert e
    assert step.why.text == "3 experts stacked in the order of their numbers"
    assert not report.plan.fresh
    assert not report.plan.unused


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_stack_taken_apart(bias, turned):
    torch.manual_seed(0)
    old, model = Net(Stacked, 2, bias=bias, turned=turned), Net(Apart, 2, bias=bias)
    report = tg.load(model, old.state_dict())
    assert agree(model, old)
    assert report.plan.by_name["blocks.0.mlp.experts.2.down.weight"].certainty is Certainty.CERTAIN
    assert not report.plan.unused


def test_without_a_router_accepting_only_what_is_certain_refuses_the_order():
    old, model = Net(Apart, 1), Net(Stacked, 1)
    saved = {name: value for name, value in old.state_dict().items() if ".gate." not in name}
    with pytest.raises(tg.PlanRefusedError, match="order of their numbers"):
        tg.load(model, saved, accept="certain")


class FusedStack(nn.Module):
    """Gate and up projections joined in one stack, as transformers keeps Mixtral's."""

    def __init__(self, count, hidden):
        super().__init__()
        self.gate = nn.Linear(WIDTH, count, bias=False)
        self.experts = nn.Module()
        self.experts.gate_up_proj = nn.Parameter(torch.randn(count, 2 * hidden, WIDTH))
        self.experts.down_proj = nn.Parameter(torch.randn(count, WIDTH, hidden))


def split_by_hand(stack):
    """The state dict of a fused stack with experts apart, under Mixtral's older names."""
    out = {}
    for key, value in stack.state_dict().items():
        for number in range(len(value)) if "experts." in key else ():
            home = f"{key.rpartition('.')[0]}.{number}"
            if key.endswith("gate_up_proj"):
                gate, up = value[number].chunk(2)
                out |= {f"{home}.w1.weight": gate, f"{home}.w3.weight": up}
            else:
                out[f"{home}.w2.weight"] = value[number]
        if "experts." not in key:
            out[key] = value
    return out


def test_gate_and_up_apart_into_a_fused_stack_and_back():
    torch.manual_seed(0)
    old = nn.ModuleDict({"mlp": FusedStack(3, 10)})
    apart = split_by_hand(old)
    model = nn.ModuleDict({"mlp": FusedStack(3, 10)})
    tg.load(model, apart)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), old.parameters(), strict=True))
    plan = tg.plan(apart, old)
    for key, value in apart.items():
        step = plan.by_name[key]
        got = old.state_dict()[step.feeds[0].key]
        for op in step.feeds[0].ops:
            got = op.run([got])
        assert torch.equal(got, value), key


def test_a_stack_of_which_the_file_lacks_an_expert_stays_fresh_and_says_which():
    torch.manual_seed(0)
    old, model = Net(Apart, 1), Net(Stacked, 1)
    before = model.blocks[0]["mlp"].experts.up.detach().clone()
    kept = {k: v for k, v in old.state_dict().items() if ".experts.1." not in k}
    report = tg.load(model, kept)
    assert torch.equal(model.blocks[0]["mlp"].experts.up, before)
    assert "lacks expert 1 of" in report.plan.by_name["blocks.0.mlp.experts.up"].why.text
    assert {u.spec.name for u in report.plan.unused} == {k for k in kept if ".experts." in k}
    assert "stack that can't be filled whole" in str(report)


def test_square_experts_are_doubt_unless_a_matrix_beside_shows():
    old = Net(Apart, 1, hidden=WIDTH)
    with pytest.raises(tg.PlanRefusedError, match="square"):
        tg.load(Net(Stacked, 1, hidden=WIDTH), old.state_dict())
    with pytest.raises(tg.PlanRefusedError, match="square"):
        tg.load(old, Net(Stacked, 1, hidden=WIDTH))


def test_what_the_caller_decided_stays_so():
    old, model = Net(Apart, 1), Net(Stacked, 1)
    before = model.blocks[0]["mlp"].experts.up.detach().clone()
    tg.load(model, old.state_dict(), fresh=["blocks.0.mlp.experts.up"])
    assert torch.equal(model.blocks[0]["mlp"].experts.up, before)
    tg.load(model, old.state_dict(), zero=["blocks.0.mlp.experts.up"])
    assert not model.blocks[0]["mlp"].experts.up.any()


def test_other_counts_of_experts_are_left_alone():
    old, model = Net(Apart, 1, count=3), Net(Stacked, 1, count=4)
    plan = tg.plan(model, old.state_dict(), on_doubt="skip")
    assert {s.slot.name for s in plan.fresh} >= {"blocks.0.mlp.experts.up", "blocks.0.mlp.experts.down"}


NETS = st.fixed_dictionaries({"layers": st.integers(1, 3), "count": st.integers(2, 5), "hidden": st.integers(2, 9)})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(NETS, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
def test_there_and_back_changes_nothing(sizes, bias, turned, shuffled, seed):
    torch.manual_seed(seed)
    old, back = Net(Apart, **sizes, bias=bias), Net(Apart, **sizes, bias=bias)
    stack = Net(Stacked, **sizes, bias=bias, turned=turned)
    state = list(old.state_dict().items())
    if shuffled:
        state = [state[i] for i in torch.randperm(len(state))]
    if sizes["hidden"] == WIDTH:
        with pytest.raises(tg.PlanRefusedError, match="square"):
            tg.load(stack, dict(state))
        return
    tg.load(stack, dict(state))
    tg.load(back, stack)
    assert agree(stack, old)
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), old.parameters(), strict=True))


@pytest.mark.parametrize("home", ["switch_mlp", "block_sparse_moe", "ffn_exps"])
@pytest.mark.parametrize("lacking", [False, True])
def test_stacks_under_another_name_than_the_experts_are_filled_whole(home, lacking):
    file, model = Apart(3, 10, bias=False), nn.Module()
    model.gate = nn.Linear(WIDTH, 3, bias=False)
    model.add_module(home, nn.Module())
    for name, shape in (("up", (3, 10, WIDTH)), ("down", (3, WIDTH, 10))):
        setattr(getattr(model, home), name, nn.Parameter(torch.randn(shape)))
    state, before = file.state_dict(), getattr(model, home).up.detach().clone()
    if lacking:
        del state["experts.1.up.weight"]
    report = tg.load(model, state)
    stacks = {n: torch.stack([file.experts[e][n].weight for e in range(3)]) for n in ("up", "down")}
    assert torch.equal(getattr(model, home).down, stacks["down"])
    assert torch.equal(getattr(model, home).up, before if lacking else stacks["up"])
    assert ("the file lacks expert 1 of 3" in str(report)) == lacking


def test_experts_that_lack_a_layer_leave_the_others_stacked():
    """Experts that do nothing may have one of their layers only: each stack counts its own."""
    apart = {f"experts.{e}.up.weight": torch.randn(10, WIDTH) for e in range(5)}
    apart |= {f"experts.{e}.down.weight": torch.randn(WIDTH, 10) for e in range(3)}
    model = nn.Module()
    model.experts = nn.Module()
    model.experts.up, model.experts.down = (nn.Parameter(torch.randn(s)) for s in ((5, 10, WIDTH), (3, WIDTH, 10)))
    tg.load(model, apart)
    for name, count in (("up", 5), ("down", 3)):
        assert torch.equal(
            getattr(model.experts, name), torch.stack([apart[f"experts.{e}.{name}.weight"] for e in range(count)])
        )


@pytest.mark.parametrize("is_stacked", [True, False])
def test_what_puts_an_expert_in_doubt_is_told_of_its_stack(is_stacked):
    """The file counts its blocks from one, and has more of them."""
    file, model = Net(Apart, 3), Net(Stacked, 2)
    if not is_stacked:
        file, model = Net(Stacked, 3), Net(Apart, 2)
    saved = {
        f"blocks.{int(name[7]) + 1}{name[8:]}" if name.startswith("blocks") else name: value
        for name, value in file.state_dict().items()
    }
    steps = [step for step in tg.plan(model, saved).steps if ".experts." in step.slot.name and step.feeds]
    assert steps
    assert {step.why.doubted_by for step in steps} == {"counted_otherwise"}


def test_a_stack_that_joins_two_tensors_along_columns_is_not_made_of_experts_apart():
    """`gate_up_proj` [E, width, 2 hidden], as Llama 4 keeps it: nothing says where in its columns the gate lies."""
    model = nn.ModuleDict({"norm": nn.LayerNorm(5), "mlp": nn.ModuleDict({"gate": nn.Linear(5, 3, bias=False)})})
    model["mlp"]["experts"] = nn.Module()
    model["mlp"]["experts"].gate_up_proj = nn.Parameter(torch.randn(3, 5, 14))
    before = model["mlp"]["experts"].gate_up_proj.clone()
    file = {name: torch.randn_like(value) for name, value in model.state_dict().items() if "experts" not in name}
    for e in range(3):
        file |= {f"mlp.experts.{e}.{part}_proj.weight": torch.randn(7, 5) for part in ("gate", "up")}
    report = tg.load(model, file, on_doubt="take")
    assert torch.equal(model["mlp"]["experts"].gate_up_proj, before)
    assert [step.why.text for step in report.plan.fresh] == ["shape [7, 5] in the file, [5, 14] in the model"]
