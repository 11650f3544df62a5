"""What speaks against a plan: each kind where it should be, and not where it shouldn't."""

import ast
import re

import pytest
import torch
from torch import nn

import torchgraft as tg


def kinds(model, checkpoint, **asked):
    return {objection.kind for objection in tg.plan(model, checkpoint, **asked).objections}


def text(model, checkpoint, kind, **asked):
    (said,) = [o.text for o in tg.plan(model, checkpoint, **asked).objections if o.kind == kind]
    return said


def part(share):
    """Return a model of 1000 elements, and a file of 1000 with `share` of them in common."""
    model = nn.ParameterDict({"a": torch.randn(share), "b": torch.randn(1000 - share)})
    return model, {"a": torch.randn(share), "elsewhere": torch.randn(1, 1, 1000 - share + 1)[..., :-1].reshape(2, -1)}


@pytest.mark.parametrize(
    ("share", "said"),
    [(20, {"coverage"}), (48, {"coverage"}), (52, {"low_coverage"}), (498, {"low_coverage"}), (502, set())],
)
def test_little_in_common_is_refused_and_less_than_half_is_said(share, said):
    assert kinds(*part(share)) & {"coverage", "low_coverage"} == said


def test_lowering_the_least_coverage_is_no_remedy_where_nothing_is_placed():
    nothing = nn.Linear(3, 2), {"odd": torch.ones(7)}
    said = text(*nothing, "coverage")
    assert said.startswith("no match: nothing of the checkpoint finds a place")
    assert "min_coverage" not in said
    assert "coverage" in kinds(*nothing, min_coverage=0)


def test_only_tensors_of_one_name_are_said_to_agree_by_name():
    numbers = {f"layers.{at}.norm.weight": torch.randn(8) for at in range(3)}
    model = nn.ModuleDict({"stage": nn.ModuleList(nn.ModuleDict({"bn": nn.BatchNorm2d(16)}) for _ in range(3))})
    assert "by name" not in text(model, numbers, "coverage")
    same = {f"net.stage.{at}.bn.weight": torch.randn(8) for at in range(3)}
    assert "3 tensors agree by name and differ in shape, e.g. stage.0.bn.weight" in text(model, same, "coverage")


def test_lowering_the_least_coverage_is_a_remedy_where_something_is_placed():
    assert text(*part(20), "coverage").endswith("or lower min_coverage=")
    assert "coverage" not in kinds(*part(20), min_coverage=0)


def test_shares_in_an_objection_are_those_of_the_verdict():
    plan = tg.plan(*part(498))
    (said,) = [o.text for o in plan.objections if o.kind == "low_coverage"]
    assert "only 49.8 % of the model's" in said
    assert "49.8 % of the model's" in str(plan).splitlines()[0]


def adapter(base):
    held = {f"attn.lora_{which}.weight": torch.randn(*size) for which, size in (("A", (2, 8)), ("B", (8, 2)))}
    return held | ({"attn.weight": torch.randn(8, 8), "attn.bias": torch.randn(8)} if base else {})


def test_adapters_beside_weights_are_said_and_adapters_alone_refused():
    model = nn.ModuleDict({"attn": nn.Linear(8, 8)})
    beside, alone = (kinds(model, adapter(base=base)) for base in (True, False))
    assert "adapters" in beside
    assert "coverage" not in beside
    assert "adapters" not in alone, "that no weight was loaded says it"
    assert "merge_lora=" in text(model, adapter(base=False), "coverage")


def test_a_share_of_the_weights_is_not_called_a_wrong_file_too():
    file = {"weight": torch.ones(0), "bias": torch.ones(0)}
    assert kinds(nn.Linear(4, 4), file) & {"partial", "coverage"} == {"partial"}


def test_a_packed_tensor_is_not_called_doubtful_too():
    packed = {"weight": torch.zeros(32, 1, dtype=torch.uint8), "bias": torch.zeros(8)}
    packed |= {"weight.absmax": torch.ones(1), "weight.quant_map": torch.ones(16)}
    assert kinds(nn.Linear(8, 8), packed) & {"quantised", "doubt"} == {"quantised"}


class Counting(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("steps", torch.zeros(3, dtype=dtype))
        self.fc = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("ours", "theirs", "lossy"),
    [
        (torch.int32, torch.float32, True),
        (torch.bool, torch.int64, True),
        (torch.float32, torch.complex64, True),
        (torch.float32, torch.int32, False),
        (torch.float32, torch.float16, False),
        (torch.int64, torch.bool, False),
    ],
)
def test_a_cast_to_a_smaller_kind_of_number_is_lossy(ours, theirs, lossy):
    assert ("lossy" in kinds(Counting(ours), Counting(theirs))) is lossy


def test_names_of_both_rotary_conventions_are_said_only_where_one_meets_the_other():
    def attention(*names):
        return nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in names})

    both = {"wq": "q_proj", "wk": "k_proj"}
    assert "rotary" in kinds(attention("q_proj", "k_proj"), attention("wq", "wk").state_dict(), rename=both)
    assert "rotary" not in kinds(attention("wq", "wk"), attention("wq", "wk").state_dict())
    wrapped = nn.ModuleDict({name: nn.Sequential(layer) for name, layer in attention("q_proj", "k_proj").items()})
    inside = {name: f"{other}.0" for name, other in both.items()}
    assert "rotary" in kinds(wrapped, attention("wq", "wk").state_dict(), rename=inside)


def test_a_doubt_spells_the_rename_that_takes_it_as_it_was_read():
    """Meta's files of Llama: the output layer comes before the blocks, under a name that others use within them."""
    names = {
        "tok.weight": (9, 4),
        "output.weight": (9, 4),
        "layers.0.attn.weight": (4, 4),
        "layers.1.attn.weight": (4, 4),
    }
    file = {name: torch.randn(shape) for name, shape in names.items()}
    model = nn.ModuleDict({
        "embed_tok": nn.Embedding(9, 4),
        "layers": nn.ModuleList(nn.ModuleDict({"attn": nn.Linear(4, 4, bias=False)}) for _ in range(2)),
        "lm_head": nn.Linear(4, 9, bias=False),
    })  # fmt: skip
    doubt = text(model, file, "doubt")
    rules = ast.literal_eval(re.search(r"rename=({.*?}) \(this tensor, or another\)", doubt)[1])
    plan = tg.load(model, file, rename=rules).plan
    assert not plan.doubtful
    assert torch.equal(model["lm_head"].weight, file["output.weight"])


def test_a_rename_that_would_mean_more_than_what_is_in_doubt_is_not_spelled():
    model = nn.ModuleDict({"a": nn.ModuleDict({"in": nn.Linear(4, 5)}), "b": nn.ModuleDict({"in": nn.Linear(4, 5)})})
    said = [
        o.text
        for o in tg.plan(model, {"x.one.weight": torch.randn(5, 4), "x.two.weight": torch.randn(5, 4)}).objections
    ]
    assert not any("rename={'x'" in one for one in said)


def test_which_tensor_is_meant_is_no_question_of_its_layout():
    """Square weights that two layers of the file could fill."""
    file = {f"{name}.weight": torch.randn(5, 5) for name in ("first", "second")}
    (which,) = tg.plan(nn.ModuleDict({name: nn.Linear(5, 5, bias=False) for name in ("left", "right")}), file).refusals
    assert "rename=" in which.remedy
    assert "permute=" not in which.remedy
