"""By which means each tensor is proved: the strongest there is, and none for a tensor that is another."""

import pytest
import torch
from faulty_models import randomised
from torch import nn

import torchgraft as tg
from torchgraft import Policy, Verdict
from torchgraft.core.proof import Means

LENIENT = Policy(outputs=Verdict.WARN, coverage=Verdict.WARN, missing=Verdict.WARN)


class Attention(nn.Module):
    """One head of attention; `fused` holds query, key and value in one layer, `shared` computes softmax in one kernel."""

    def __init__(self, *, fused=False, scores=True):
        super().__init__()
        self.scores = scores
        if fused:
            self.qkv = nn.Linear(6, 18)
        else:
            self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1) if hasattr(self, "qkv") else (self.q(x), self.k(x), self.v(x))
        if self.scores:
            return self.out((q @ k.transpose(-1, -2) / 6**0.5).softmax(-1) @ v)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))


class Biased(nn.Module):
    """Scores with a table added, and a constant that softmax takes out again."""

    def __init__(self, *, at_once):
        super().__init__()
        self.q, self.table, self.shift = nn.Linear(6, 6), nn.Parameter(torch.randn(5, 5)), nn.Parameter(torch.randn(1))
        self.at_once = at_once

    def forward(self, x):
        scores = self.q(x) @ x.transpose(-1, -2)
        if self.at_once:
            return (scores + (self.table + self.shift)).softmax(-1) @ x
        return ((scores + self.shift) + self.table).softmax(-1) @ x


class Idle(nn.Module):
    """A layer whose weight, whatever it is, comes to nothing: `how` says by what."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.last, self.how = nn.Linear(6, 6), nn.Linear(6, 6), how

    def forward(self, x):
        linear, weight, bias = nn.functional.linear, self.last.weight, self.last.bias
        x = self.inner(x)
        if self.how == "dead":
            return self.last((x - 1000).relu())
        if self.how == "masked":
            return self.last(x.masked_fill(x < 1000, 0))
        return linear(x, weight.clamp(7, 8) if self.how == "clamped" else weight * 0, bias)


def means_of(proof):
    return {slot: part.means for part in proof.parts for slot in part.slots}


@pytest.mark.parametrize(("fused", "scores"), [(False, True), (True, True), (False, False), (True, False)])
def test_all_of_an_attention_is_shown_by_outputs_where_its_projections_are_in_both_runs(fused, scores):
    source, target = randomised(Attention()), Attention(fused=fused, scores=scores)
    proof = tg.plan(target, source, inputs=torch.randn(2, 5, 6)).proof
    assert set(means_of(proof).values()) == {Means.OUTPUTS}
    assert proof.complete


def test_what_outputs_do_not_depend_on_is_not_shown_by_them():
    source, target = randomised(Biased(at_once=True)), Biased(at_once=False)
    proof = tg.plan(target, source, inputs=torch.randn(2, 5, 6)).proof
    assert proof.passed
    assert means_of(proof) == {
        "q.weight": Means.OUTPUTS, "q.bias": Means.OUTPUTS, "table": Means.OUTPUTS, "shift": Means.VALUE
    }  # fmt: skip
    assert "1 by value alone" in proof.words()


class Counted(nn.Module):
    """A norm with a counter, and a head that only training runs."""

    def __init__(self, classes=4):
        super().__init__()
        self.norm, self.side, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2), nn.Linear(6, classes)

    def forward(self, x):
        x = self.norm(x)
        return (self.head(x), self.side(x)) if self.training else self.head(x)


def test_counters_are_proved_by_value_and_idle_modules_on_their_own():
    source, target = randomised(Counted()), Counted()
    source.norm.num_batches_tracked.fill_(77)
    proof = tg.plan(target, source, inputs=torch.randn(3, 6)).proof
    found = means_of(proof)
    assert proof.passed
    assert proof.complete
    assert found.pop("norm.num_batches_tracked") is Means.IDLE
    assert {found.pop("side.weight"), found.pop("side.bias")} == {Means.APART}
    assert set(found.values()) == {Means.OUTPUTS}
    assert proof.words() == (
        "proved on 1 input, max rel. diff 0: all 9 tensors placed; 6 by outputs of the whole; "
        "2 by modules run on their own, not where they stand (side); 1 by value, without part in the run"
    )


def test_a_side_head_that_holds_something_else_is_not_proved():
    source, target = randomised(Counted()), Counted()
    state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    state["side.weight"] += 0.01
    with torch.no_grad():
        source.norm.num_batches_tracked.fill_(3)
    proof = tg.plan(target, state, source_model=source, inputs=torch.randn(3, 6)).proof
    assert proof.passed
    assert "side.weight" not in {s for p in proof.parts if p.means is not Means.VALUE for s in p.slots}


class Patches(nn.Module):
    """A sum of patches and a table of their positions."""

    def __init__(self, size):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (size // 4) ** 2, 8))
        self.norm, self.size = nn.LayerNorm(8), size

    def forward(self, x):
        if x.shape[-1] != self.size:
            raise ValueError("another size")
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.norm(x)[:, 0]


def test_a_resampled_table_is_computed_a_second_time():
    source, target = randomised(Patches(16)), Patches(24)
    proof = tg.plan(target, source, inputs="guess", policy=LENIENT, on_doubt="take").proof
    assert not proof.passed
    assert not proof.stands
    found = means_of(proof)
    assert {name for name, means in found.items() if means is Means.VALUE} == {"cls_token", "pos_embed"}
    assert found["norm.weight"] is Means.APART
    assert proof.complete


def test_a_resampling_that_computes_something_else_is_not_proved(monkeypatch):
    from torchgraft.ops import resample

    honest = resample.interpolated
    monkeypatch.setattr(resample, "interpolated", lambda *a, **k: honest(*a, **k).flip(-1))
    source, target = randomised(Patches(16)), Patches(24)
    proof = tg.plan(target, source, inputs="guess", policy=LENIENT, on_doubt="take").proof
    assert proof.unproved == ("pos_embed",)
    assert not proof.complete
    assert "not proved: pos_embed" in proof.words()


def verified(spoil=None):
    source, target = randomised(Counted()), Counted()
    report = tg.load(target, source)
    if spoil:
        with torch.no_grad():
            spoil(target)
    return tg.verify(target, source, torch.randn(3, 6), plan=report)


def test_a_verification_says_what_is_proved_of_each_tensor():
    found = verified()
    assert found.passed
    assert found.complete
    assert sum(len(part.slots) for part in found.parts) == 9
    assert "all 9 tensors placed" in str(found)
    data = found.to_dict()
    assert {part["means"] for part in data["parts"]} == {"outputs", "apart", "idle"}
    assert data["complete"] is True
    assert data["unproved"] == []


@pytest.mark.parametrize(
    ("spoil", "passed", "unproved"),
    [
        (lambda model: model.side.weight.add_(0.1), True, {"side.weight"}),
        (lambda model: model.norm.num_batches_tracked.fill_(5), True, {"norm.num_batches_tracked"}),
        (lambda model: model.head.weight[0, 0].add_(1), False, {"head.weight"}),
        (lambda model: model.head.weight.copy_(model.head.weight.flip(0)), False, {"head.weight"}),
        (lambda model: model.norm.running_mean.add_(0.5), False, {"norm.running_mean"}),
    ],
)
def test_a_tensor_that_holds_something_else_is_proved_by_no_means(spoil, passed, unproved):
    found = verified(spoil)
    assert found.passed is passed
    assert not found.complete
    assert unproved <= set(found.unproved)
    assert "not proved: " in str(found)


def test_a_recorded_run_proves_what_its_outputs_show(tmp_path):
    source, target = randomised(Counted()), Counted()
    report = tg.load(target, source)
    tg.record(source, torch.randn(3, 6), tmp_path / "runs.safetensors")
    found = tg.verify(target, golden=tmp_path / "runs.safetensors", plan=report)
    assert found.passed
    assert {name for part in found.parts for name in part.slots} == {
        name for name in report.plan.by_slot if name.startswith(("norm", "head")) and "num" not in name
    }
    assert set(found.unproved) == {"side.weight", "side.bias", "norm.num_batches_tracked"}


@pytest.mark.parametrize("how", ["dead", "masked", "clamped", "nothing"])
def test_a_weight_that_comes_to_nothing_is_not_shown_by_what_is_made_with_it(how):
    source, target = randomised(Idle(how)), Idle(how)
    target.load_state_dict(source.state_dict())
    with torch.no_grad():
        target.last.weight += 1
    found = tg.verify(target, source, torch.randn(4, 6))
    assert found.passed
    assert "last.weight" in found.unproved
    assert means_of(found)["last.bias"] is Means.OUTPUTS


class Insensitive(nn.Module):
    """Its outputs are the same whatever the scale of `inner` is, and whichever of `one` and `other` is which."""

    def __init__(self):
        super().__init__()
        self.inner, self.one, self.other = nn.Linear(6, 6, bias=False), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = nn.functional.layer_norm(100 * self.inner(x), (6,), eps=1e-12)
        return self.one(x) + self.other(x)


def scale(model):
    model.inner.weight.mul_(2)


def exchange(model):
    model.one, model.other = model.other, model.one


@pytest.mark.parametrize(
    ("change", "unproved", "said"),
    [
        (scale, ("inner.weight",), "inner.weight is its planned value times 2"),
        (
            exchange,
            ("one.bias", "one.weight", "other.bias", "other.weight"),
            "one.weight holds what the plan has for other.weight",
        ),
    ],
)
def test_what_holds_something_else_than_planned_is_not_proved_though_outputs_agree(change, unproved, said):
    source, model = randomised(Insensitive()).eval(), Insensitive().eval()
    report = tg.load(model, source)
    rows = torch.randn(4, 6)
    assert tg.verify(model, source, rows, plan=report).complete
    with torch.no_grad():
        change(model)
    found = tg.verify(model, source, rows, plan=report)
    assert found.passed
    assert found.unproved == unproved
    assert any(f"outputs agree, and {said}" in note for note in found.notes)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, lambda n: nn.InstanceNorm1d(n, track_running_stats=True)])
def test_running_statistics_are_not_shown_by_a_run_that_takes_those_of_its_input(norm):
    def net():
        return nn.Sequential(nn.Linear(5, 5), nn.Unflatten(1, (5, 1)), nn.Upsample(4), norm(5)).train()

    source, model = net(), net()
    report = tg.load(model, source)
    found = tg.verify(model, source, torch.randn(4, 5), plan=report, mode="as is")
    how = {slot: part.means for part in found.parts for slot in part.slots}
    assert found.passed
    assert how["0.weight"] is Means.OUTPUTS
    assert {how[name] for name in how if "running" in name} == {Means.VALUE}
    model[3].running_mean += 1
    assert "3.running_mean" in tg.verify(model, source, torch.randn(4, 5), plan=report, mode="as is").unproved


def test_weights_that_differ_behind_the_first_difference_are_told():
    model, source = (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)) for _ in range(2))
    report = tg.load(model, source)
    model[1].eps = 0.1
    with torch.no_grad():
        model[2].weight.mul_(1.5)
    found = tg.verify(model, source, torch.randn(2, 4), plan=report)
    assert [cause.module for cause in found.causes] == ["1"]
    assert any(note.startswith("2.weight is its planned value times 1.5") for note in found.notes)
    assert "model and source: 1 (LayerNorm), operation 2 of 3" in str(found)
