"""Where outputs prove nothing, parts do: it is said that they are parts, which ones, and what is in none."""

import re

import pytest
import torch
from faulty_models import randomised
from torch import nn

import torchgraft as tg
from torchgraft import PlanRefusedError, Policy, Verdict
from torchgraft.core.plan import Certainty
from torchgraft.core.proof import Means

LENIENT = Policy(outputs=Verdict.WARN, coverage=Verdict.WARN, missing=Verdict.WARN)


class Net(nn.Module):
    """A body of two layers and a norm, with a head of some classes."""

    def __init__(self, classes, body="body", head="head"):
        super().__init__()
        self.add_module(body, nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8)))
        self.add_module(head, nn.Linear(8, classes))
        self.parts = (body, head)

    def forward(self, x):
        body, head = (self.get_submodule(name) for name in self.parts)
        return head(body(x))


class Tokens(nn.Module):
    """A table of words and an untied head over them."""

    def __init__(self, words):
        super().__init__()
        self.embed_tokens = nn.Embedding(words, 8)
        self.norm = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, words, bias=False)

    def forward(self, ids):
        return self.lm_head(self.norm(self.embed_tokens(ids)))


class Detector(nn.Module):
    """Takes images in its own way, so that only its backbone can be run on what the source takes."""

    def __init__(self):
        super().__init__()
        self.backbone = body()
        self.boxes = nn.Linear(8, 4)

    def forward(self, images, sizes, flags):
        return self.boxes(self.backbone(torch.stack(images) / sizes)), flags.shape


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = body()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.features(x))


def body():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_a_head_of_other_classes_leaves_the_body_proved_where_it_stands():
    source, target = randomised(Net(5)), Net(7)
    plan = tg.plan(target, source, inputs=torch.randn(3, 8), on_doubt="take", policy=LENIENT)
    proof = plan.proof
    assert not proof.passed
    assert proof.complete
    assert {slot for part in proof.parts for slot in part.slots} == {
        "body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias", "body.3.weight", "body.3.bias"
    }  # fmt: skip
    assert all(plan.by_slot[name].certainty is Certainty.CERTAIN for part in proof.parts for name in part.slots)
    assert proof.stands
    assert proof.words().startswith("proved in parts, not as a whole: all 6 tensors placed, where they stand (body.3)")
    assert "the output is [3, 7], that of the source [3, 5]" in proof.words()
    assert not [o for o in plan.objections if o.kind == "outputs"]
    assert proof.words() in plan.notes


def test_of_a_larger_table_and_head_the_filled_rows_are_compared():
    source, target = randomised(Tokens(9)), Tokens(12)
    plan = tg.plan(
        target, source, inputs=torch.randint(0, 9, (2, 5)), grow_rows=["embed_tokens.weight", "lm_head.weight"]
    )
    assert plan.proof.complete
    assert {slot for part in plan.proof.parts for slot in part.slots} == {
        "embed_tokens.weight", "norm.weight", "norm.bias", "lm_head.weight"
    }  # fmt: skip


def test_rows_that_nothing_fills_keep_a_larger_table_as_sure_as_it_was():
    source, target = randomised(Tokens(9)), Tokens(12)
    asked = {"inputs": torch.randint(0, 9, (2, 5)), "policy": LENIENT}
    taken = tg.plan(target, source, on_doubt="take", **asked)
    assert taken.proof.complete
    assert {taken.by_slot[name].certainty for name in ("norm.weight", "norm.bias")} == {Certainty.CERTAIN}
    assert taken.by_slot["lm_head.weight"].certainty is not Certainty.CERTAIN
    skipped = tg.plan(target, source, on_doubt="skip", accept="certain", **asked)
    assert "lm_head.weight" in {step.slot.name for step in skipped.fresh}
    assert "lm_head.weight" not in {slot for part in skipped.proof.parts for slot in part.slots}


@pytest.mark.parametrize("order", ["cdefgh", "hgfedc", "axb"])
def test_rows_of_classes_are_compared_with_those_they_come_from(order):
    source, target = randomised(Net(9)), Net(len(order))
    names = {"source": list("abcdefghi"), "target": list(order)}
    plan = tg.plan(target, source, class_names=names, class_rows={"head": 1}, inputs=torch.randn(3, 8), policy=LENIENT)
    assert plan.proof.complete, plan.proof.words()
    assert {"head.weight", "head.bias"} <= {slot for part in plan.proof.parts for slot in part.slots}


def test_a_module_that_can_only_be_run_on_its_own_is_proved_so():
    source, target = randomised(Classifier()), Detector()
    plan = tg.plan(target, source, source_model=source, inputs="guess", on_doubt="take", policy=LENIENT)
    proof = plan.proof
    assert not proof.passed
    assert proof.complete
    assert not proof.stands
    assert [(part.module, part.source_module, part.means) for part in proof.parts] == [
        ("backbone.3", "features.3", Means.APART), ("", "", Means.IDLE)
    ]  # fmt: skip
    assert proof.parts[1].slots == ("backbone.1.num_batches_tracked",)
    assert not proof.unproved
    assert "by modules run on their own, not where they stand (backbone.3)" in proof.words()
    assert "no input is known on which both can be run" in proof.words()
    assert [o.kind for o in plan.objections if o.kind == "outputs"] == ["outputs"]


def test_models_without_a_forward_method_are_compared_by_their_modules():
    source = nn.ModuleDict({"stem": body(), "last": nn.Linear(8, 3)})
    target = nn.ModuleDict({"stem": body(), "last": nn.Linear(8, 3)})
    randomised(source)
    plan = tg.plan(target, source, inputs="guess", policy=LENIENT)
    means = {part.module: part.means for part in plan.proof.parts}
    assert means == {"stem.3": Means.APART, "last": Means.APART, "": Means.IDLE}
    assert not plan.proof.unproved


def test_what_does_not_agree_is_in_no_part_and_refused():
    source, target = randomised(Net(5)), Net(7)
    target.body[1] = nn.ReLU()
    asked = {"inputs": "guess", "on_doubt": "take"}
    with pytest.raises(PlanRefusedError, match="not proved to be the source's: the output is"):
        tg.load(target, source, policy=Policy(coverage=Verdict.WARN, missing=Verdict.WARN), **asked)
    plan = tg.plan(target, source, policy=LENIENT, **asked)
    in_place = {slot for part in plan.proof.parts if part.means is Means.PLACE for slot in part.slots}
    assert in_place == {"body.0.weight", "body.0.bias"}
    assert not plan.proof.stands


class Stretched(Net):
    def forward(self, x):
        return 2 * super().forward(x)


def test_equal_shapes_with_other_values_are_refused_though_all_parts_agree():
    source, target = randomised(Net(5)), Stretched(5)
    plan = tg.plan(target, source, inputs=torch.randn(3, 8), policy=LENIENT)
    assert plan.proof.complete
    assert [o.kind for o in plan.objections] == ["outputs"]
    assert "outputs differ" in plan.proof.words()


def test_parts_leave_no_trace():
    source, target = randomised(Classifier()).train(), Detector().train()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (source, target)]
    tg.plan(target, source, inputs="guess", on_doubt="take", policy=LENIENT)
    for model, old in zip((source, target), before, strict=True):
        assert all(torch.equal(tensor, old[name]) for name, tensor in model.state_dict().items())
        assert all(module.training and not module._forward_pre_hooks for module in model.modules())


class Pair(nn.Module):
    """Takes a pair as its one argument."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, both):
        first, second = both
        return self.one(first) @ self.two(second).transpose(-1, -2)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)

    def forward(self, input_ids, decoder_input_ids):
        return self.embed(input_ids) + self.embed(decoder_input_ids)


class Sized(nn.Module):
    """Takes images of one size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.fc = nn.Linear(4 * 49, 2)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    "build", [Pair, Two, Sized, lambda: nn.Conv1d(1, 2, 9), lambda: nn.LSTM(5, 4), lambda: nn.Linear(3, 2)]
)
def test_inputs_are_guessed_by_layers_and_forward_methods(build):
    source = randomised(build())
    target = build()
    found = tg.load(target, source, inputs="guess")
    assert found.plan.proof.passed, found.plan.proof.words()
    said = tg.verify(target, source, "guess", plan=found)
    assert said.passed
    assert any(note.startswith("run on inputs that were guessed: ") for note in said.notes)


def test_nothing_to_guess_is_told():
    model = nn.ModuleDict({"last": nn.Linear(8, 3)})
    with pytest.raises(tg.UsageError, match="no input was found on which both models run"):
        tg.verify(model, model, "guess")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"inputs": "gues"}, "inputs='gues': give tensors, a callable, or 'guess'"),
        ({"inputs": "guess", "source_inputs": torch.ones(1, 3)}, "source_inputs= can't be given beside it"),
    ],
)
def test_other_words_are_refused(given, text):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    for call in (tg.verify, tg.plan):
        with pytest.raises(tg.UsageError, match=re.escape(text)):
            call(target, source, **given)


def test_recorded_runs_hold_their_inputs(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    tg.record(source, torch.ones(1, 3), tmp_path / "runs.safetensors")
    for call in (tg.verify, lambda one, **given: tg.plan(one, source, **given)):
        with pytest.raises(tg.UsageError, match="a recorded run holds its inputs"):
            call(target, golden=tmp_path / "runs.safetensors", inputs="guess")


def test_guessing_draws_no_random_numbers():
    models = nn.Linear(3, 2), nn.Linear(3, 2)
    before = torch.get_rng_state()
    tg.verify(*models, "guess")
    assert torch.equal(before, torch.get_rng_state())


def scripted(model, path):
    torch.jit.save(torch.jit.script(model), path)
    return torch.jit.load(path)


def two_stages(classes):
    body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    return randomised(nn.Sequential(body, nn.Sequential(nn.Tanh(), nn.Linear(5, classes))))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("classes", "as_a_whole"), [(3, True), (2, False)])
def test_a_module_whose_code_is_in_no_python_proves_as_any_other(tmp_path, classes, as_a_whole):
    file, model = two_stages(3), two_stages(classes)
    source = scripted(file, tmp_path / "file.pt")
    report = tg.load(model, file.state_dict(), source_model=source, inputs="guess", policy=LENIENT)
    assert not report.plan.proof.unproved
    assert report.plan.proof.passed is as_a_whole
    assert tg.verify(model, source, inputs="guess").passed is as_a_whole


class Shortcut(nn.Module):
    """A convolution beside what it is given; without padding the two don't fit, whatever the size of the input."""

    runs = 0

    def __init__(self, padding):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=padding)

    def forward(self, x):
        type(self).runs += 1
        return self.conv(x) + x


def test_no_inputs_are_guessed_for_what_fails_on_the_source_s_own():
    source, model = nn.Sequential(Shortcut(1), nn.Tanh()), nn.Sequential(Shortcut(0), nn.Tanh())
    report = tg.load(model, source)
    Shortcut.runs = 0
    result = tg.verify(model, source, torch.randn(2, 3, 9, 9), plan=report)
    assert not result.finished
    assert [cause.text for cause in result.causes[1:]] == ["0.conv: padding is (0, 0), in the source (1, 1)"]
    assert Shortcut.runs < 12  # a search takes up to a hundred


class Deep(nn.Module):
    """Many layers behind one that may compute something else, and how often the whole was run."""

    def __init__(self, layers, act):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))
        self.act, self.runs = act, 0

    def forward(self, x):
        self.runs += 1
        x = self.act(self.layers[0](x))
        for layer in self.layers[1:]:
            x = x + layer(x).tanh()
        return x


def test_many_modules_that_run_apart_are_seen_in_few_runs_of_the_whole():
    source, model = Deep(100, torch.sigmoid), Deep(100, torch.relu)
    report = tg.load(model, source.state_dict())
    found = tg.verify(model, source, torch.randn(2, 8), plan=report)
    assert not found.passed
    assert "all 200 tensors placed" in str(found)
    assert source.runs < 20
