import re
from pathlib import Path

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.arguments import OTHER_WORDS, Arguments
from torchgraft.core.formatting import did_you_mean
from torchgraft.request import READERS, make_request

KEYWORDS = tuple(Arguments.__annotations__)


def test_the_typed_list_is_what_is_accepted():
    assert tuple(READERS) == KEYWORDS
    assert Arguments.__required_keys__ == frozenset()


def test_none_is_as_if_it_was_not_given():
    assert make_request(**dict.fromkeys(KEYWORDS)) == make_request()


@pytest.mark.parametrize("name", KEYWORDS)
def test_each_keyword_is_explained(name):
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text(encoding="utf-8")
    assert re.search(rf"`{name}`", page)


@pytest.mark.parametrize("function", [tg.plan, tg.load])
def test_an_unknown_keyword_is_refused(function):
    with pytest.raises(TypeError, match="renam"):
        function({"w": [1.0]}, {}, renam={})


def test_near_names_are_suggested():
    assert did_you_mean("layer1.wieght", ["layer1.weight", "head.bias"]) == "; did you mean 'layer1.weight'?"
    assert did_you_mean("layer1", ["xyz"]) == ""
    assert did_you_mean("a", []) == ""


def test_control_characters_of_names_are_escaped():
    assert "\x1b" not in did_you_mean("layer\x1bx", ["layer\x1by"])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 4)
        self.conv = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 4)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rename": [("a", "b")]}, "rename=[('a', 'b')]: use a dictionary"),
        ({"rename": {"head": 3}}, "rename={'head': 3}: use texts on both sides"),
        ({"copies": {3: "head"}}, "copies={3: 'head'}: use texts on both sides"),
        ({"fan_out": {"head": "body"}}, "fan_out={'head': 'body'}: give a list of prefixes"),
        ({"layers": {"blocks": "01"}}, "layers={'blocks': '01'}: give a list of the file's layer numbers, from 0"),
        ({"layers": {"blocks": [-1]}}, "layers={'blocks': [-1]}: give a list of the file's layer numbers, from 0"),
        ({"grids": {"embed": (2, 2)}}, "grids={'embed': (2, 2)}: give ((height, width) in the file"),
        ({"permute": {"embed": 3}}, "permute={'embed': 3}: give an order of all axes"),
        ({"permute": {"embed": (0, 0)}}, "permute={'embed': (0, 0)}: give an order of all axes"),
        ({"permute": {"embed": (0, 2, 1)}}, "an order of 3 axes is none for embed.weight [4, 4]"),
        ({"zero": [re.compile("a")]}, "zero=[re.compile('a')]: give a list of patterns"),
        ({"grow_rows": 3}, "grow_rows=3: give a list of patterns"),
        ({"policy": {"doubt": "warn"}}, "policy={'doubt': 'warn'}: use a Policy, e.g. tg.Policy("),
        ({"strict": "no"}, "strict='no': use True or False"),
        ({"statistics": 1}, "statistics=1: use True or False"),
        ({"prefer": 3}, "prefer=3: use a text"),
        ({"min_coverage": "0.5"}, "min_coverage='0.5': use a share between 0 and 1"),
        ({"merge_lora": "yes"}, "merge_lora='yes': use True, False or a number"),
        ({"fold_norms": float("nan")}, "fold_norms=nan: use True, False or a number"),
        ({"source_model": Tied}, "source_model is a class: give the module"),
        ({"in_channels": {"conv": "many"}}, "in_channels={'conv': 'many'}: "),
        ({"tensor_parallel": {"head": "rows"}}, "tensor_parallel= says how tensors are shared out to ranks"),
    ],
)
@pytest.mark.parametrize("call", [tg.plan, tg.load])
def test_what_makes_no_sense_is_said_before_anything_is_done(call, asked, said):
    model = Tied()
    before = [p.tolist() for p in model.parameters()]
    with pytest.raises(tg.UsageError, match=re.escape(said)):
        call(model, Tied().state_dict(), **asked)
    assert [p.tolist() for p in model.parameters()] == before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"plan": 3}, "plan is an int: give what plan() returned"),
        ({"device": "nosuch"}, "device='nosuch': "),
        ({"device": "meta"}, "device='meta': nothing has values there"),
        ({"device": "cuda:0"}, "this model lies on 'cpu' and stays there: move it with model.to('cuda:0')"),
    ],
)
def test_arguments_of_load_alone(asked, said):
    with pytest.raises(tg.UsageError, match=re.escape(said)):
        tg.load(Tied(), Tied().state_dict(), **asked)


def test_a_class_is_no_model():
    with pytest.raises(tg.UsageError, match=r"the class Linear can't be filled: give an nn\.Module"):
        tg.load(nn.Linear, {"weight": torch.ones(2, 2)})


def test_a_verdict_is_a_verdict():
    with pytest.raises(tg.UsageError, match=r"Policy\(doubt='warn'\): use one of Verdict.REFUSE, Verdict.WARN"):
        tg.Policy(doubt="warn")


def test_patterns_may_come_from_anything_that_gives_them_once():
    plan = tg.plan(Tied(), Tied().state_dict(), fresh=(name for name in ["conv", "head.bias"]))
    assert [step.slot.name for step in plan.fresh] == ["conv.weight", "conv.bias", "head.bias"]


@pytest.mark.parametrize("pattern", ["embed.weight", "embed", "head.weight", "head", "head.", "h*", "*.weight"])
def test_an_order_of_axes_is_followed_under_each_name_and_pattern(pattern):
    model, file = Tied(), Tied().state_dict()
    file["conv.weight"] = file["conv.weight"].flatten(1)[..., None, None]
    tg.load(model, file, permute={pattern: (1, 0)})
    assert torch.equal(model.embed.weight, file["embed.weight"].T)
    assert torch.equal(model.head.bias, file["head.bias"])


def test_an_order_that_gives_another_shape_is_refused_by_the_plan_already():
    with pytest.raises(
        tg.UsageError, match=r"weight is \[2, 3\] in the file, which the order \[1, 0\] does not make \[2, 3\]"
    ):
        tg.plan(nn.Linear(3, 2), nn.Linear(3, 2).state_dict(), permute={"weight": (1, 0)})


@pytest.mark.parametrize("pattern", ["0.weight", "0", "0.*", "*"])
def test_rules_for_channels_and_grids_are_followed_under_each_pattern(pattern):
    model, file = nn.Sequential(nn.Conv2d(4, 2, 3)), nn.Sequential(nn.Conv2d(3, 2, 3)).state_dict()
    tg.load(model, file, in_channels={pattern: "zero"})
    assert torch.equal(model[0].weight[:, :3], file["0.weight"])
    assert not model[0].weight[:, 3].any()


@pytest.mark.parametrize("call", [tg.plan, tg.load])
@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("stict", r"; did you mean 'strict'\?"),
        ("renames", r"; did you mean 'rename'\?"),
        ("map_location", ": values go where the model's own are$"),
        ("skip", r"; did you mean 'fresh'\?"),
        ("xyz", "$"),
    ],
)
def test_an_unknown_keyword_is_told_by_the_function_that_was_called(call, said, hint):
    with pytest.raises(TypeError, match=rf"^{call.__name__}\(\) got an unexpected keyword argument '{said}'{hint}"):
        call(torch.nn.Linear(3, 2), {"weight": torch.ones(2, 3)}, **{said: 1})


def test_words_of_other_functions_lead_to_keywords():
    assert set(OTHER_WORDS.values()) <= {*KEYWORDS}
    assert not {*OTHER_WORDS} & {*KEYWORDS}


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
@pytest.mark.parametrize("spelled", ["model", "file"])
def test_a_pattern_may_have_the_prefix_that_only_the_file_has(prefix, spelled):
    net = {"stem": nn.Conv2d(4, 2, 3), "table": nn.Embedding(5, 2), "mix": nn.Linear(2, 2), "head": nn.Linear(2, 3)}
    model = nn.ModuleDict(net)
    kept = model["head"].weight.clone()
    old = nn.ModuleDict({**net, "stem": nn.Conv2d(3, 2, 3), "table": nn.Embedding(3, 2)})
    state = {f"{prefix}{name}": torch.randn_like(value) for name, value in old.state_dict().items()}
    at = prefix if spelled == "file" else ""
    tg.load(
        model,
        state,
        fresh=[f"{at}head.weight"],
        zero=[f"{at}mix.b*"],
        in_channels={f"{at}stem": "zero"},
        grow_rows=[f"{at}table.weight"],
        permute={f"{at}mix.weight": (1, 0)},
    )
    assert torch.equal(model["head"].weight, kept)
    assert not model["stem"].weight[:, 3].any()
    assert not model["mix"].bias.any()
    assert torch.equal(model["table"].weight[:3], state[f"{prefix}table.weight"])
    assert torch.equal(model["mix"].weight, state[f"{prefix}mix.weight"].T)


def test_a_prefix_of_neither_side_is_an_error():
    with pytest.raises(tg.UsageError, match=r"fresh: no tensor of the model is called 'modul\.head'"):
        tg.plan(
            nn.ModuleDict({"head": nn.Linear(2, 2)}), {"module.head.weight": torch.ones(2, 2)}, fresh=["modul.head"]
        )
