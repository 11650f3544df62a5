"""What a file says of its own state: shares of the weights, values that were never set, norms that were folded away."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Net(nn.Module):
    """A layer under spectral norm, one with a norm, and statistics that scale the input."""

    def __init__(self, *, baked=False):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        first = nn.Linear(4, 6)
        self.first = first if baked else nn.utils.parametrizations.spectral_norm(first)
        self.out = nn.Linear(6, 2)


def state(**changed):
    return {k: v.clone() for k, v in Net().state_dict().items()} | changed


@pytest.mark.parametrize("dead", ["file", "model"])
def test_statistics_that_were_never_set_are_said_and_do_not_stop_the_load(dead):
    never = torch.full((4,), float("inf"))
    model, file = Net(), state()
    if dead == "file":
        file["mean"] = never
    else:
        del file["mean"]
        model.mean = never
    report = tg.load(model, file)
    assert [o.kind for o in report.plan.warnings] == ["infinite"]
    assert "mean [4]" in report.plan.warnings[0].text
    with pytest.raises(tg.PlanRefusedError, match="never set"):
        tg.load(model, file, policy=tg.Policy(infinite=tg.Verdict.REFUSE))


def test_masks_of_infinities_are_usual():
    model = nn.Module()
    model.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
    model.fc = nn.Linear(2, 2)
    assert not tg.load(model, model.state_dict()).plan.warnings


@pytest.mark.parametrize("baked", [False, True])
@pytest.mark.parametrize("averaged", [False, True])
def test_power_iteration_vectors_that_were_averaged_are_said(baked, averaged):
    file = state()
    key = "first.parametrizations.weight.0._u"
    if averaged:
        file[key] = (file[key] + nn.functional.normalize(torch.randn(6), dim=0)) / 2
    found = [o.names for o in tg.load(Net(baked=baked), file).plan.warnings]
    assert found == ([(key,)] if averaged else [])


class Rotary(nn.Module):
    def __init__(self, base, *, persistent):
        super().__init__()
        frequencies = 1 / base ** (torch.arange(0, 8, 2) / 8)
        self.register_buffer("inv_freq", frequencies, persistent=persistent)
        self.register_buffer("cos_cached", torch.outer(torch.arange(9.0), frequencies).cos(), persistent=persistent)


class Attention(nn.Module):
    def __init__(self, base=1e4, *, persistent=True):
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.rotary = Rotary(base, persistent=persistent)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_rotary_frequencies_of_another_base_are_said(persistent, half):
    file = {k: v.bfloat16() if half else v for k, v in Attention().state_dict().items()}
    assert not tg.load(Attention(persistent=persistent), file).plan.warnings
    report = tg.load(Attention(5e5, persistent=persistent), file)
    assert [o.kind for o in report.plan.warnings] == ["buffers"]
    assert "another base or scaling" in str(report)


def test_rotary_tables_of_another_length_are_nothing_to_hear_about():
    model = Attention()
    model.rotary.cos_cached = torch.zeros(20, 4)
    report = tg.load(model, Attention().state_dict())
    assert not report.plan.fresh
    assert not model.rotary.cos_cached.any()


def test_empty_tensors_are_shares_of_a_larger_whole():
    model = Net(baked=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    file = {f"module.{k}": torch.empty(0) if "weight" in k else v for k, v in before.items()}
    with pytest.raises(tg.PlanRefusedError, match=r"2 tensors of the file are empty .*module.first.weight \(\[0\]"):
        tg.load(model, {"module": file})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_empty_tensors_of_an_empty_model_are_fine():
    model = nn.Module()
    model.none, model.fc = nn.Parameter(torch.empty(0)), nn.Linear(2, 2)
    assert not tg.load(model, model.state_dict()).plan.objections


def test_flattened_parameters_are_named():
    with pytest.raises(tg.PlanRefusedError, match="FSDP"):
        tg.load(Net(), {"_fsdp_wrapped_module._flat_param": torch.ones(50), "mean": torch.ones(4)})


class Branches(nn.Module):
    """Parallel branches with norms, or the one convolution that they are fused into."""

    def __init__(self, *, fused):
        super().__init__()
        if fused:
            self.reparam = nn.Conv2d(4, 4, 3)
        else:
            self.dense = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, bias=False), "bn": nn.BatchNorm2d(4)})
            self.identity = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)


def test_a_deployed_layer_is_not_taken_for_one_of_its_branches():
    with pytest.raises(tg.PlanRefusedError, match=r"dense.conv.weight .* norms or branches are fused into it"):
        tg.load(Branches(fused=False), Branches(fused=True).state_dict())


def test_a_layer_with_its_norm_folded_in_is_not_taken_for_one_without():
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, bias=False), "bn": nn.BatchNorm2d(4), "head": nn.Linear(4, 3)})
    folded = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 3)})
    with pytest.raises(tg.PlanRefusedError, match="that nothing fills"):
        tg.load(model, folded.state_dict())


@pytest.mark.parametrize(("joint", "front"), [("", "model_ema."), ("_", "ema_")])
@pytest.mark.parametrize("prefer", [None, "ema"])
def test_averages_under_names_without_dots_are_taken_when_asked_for(joint, front, prefer):
    live, average, model = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)) for _ in range(3))
    file = {f"net.{k}": v for k, v in live.state_dict().items()}
    file |= {front + f"net.{k}".replace(".", joint): v for k, v in average.state_dict().items()}
    wanted = average if prefer else live
    tg.load(model, file, prefer=prefer)
    assert all(torch.equal(v, wanted.state_dict()[k]) for k, v in model.state_dict().items())


def body():
    return nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "fc": nn.Linear(4, 4)})


def under(**parts):
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def test_of_two_networks_side_by_side_both_are_named():
    with pytest.raises(tg.PlanRefusedError, match=r"fit equally: 'student.body.', 'teacher.body.'"):
        tg.load(body(), {"model": under(**{"student.body": body(), "teacher.body": body()})})


@pytest.mark.parametrize("front", ["", "net."])
def test_one_network_for_two_equal_parts_of_the_model_is_a_question(front):
    model, file = nn.ModuleDict({"left": body(), "right": body()}), body()
    saved = {front + key: value for key, value in file.state_dict().items()}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match=r"several parts of the model equally: 'left.', 'right.'\n.*fan_out"):
        tg.load(model, saved)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    tg.load(model, saved, fan_out={front: ["left", "right"]})
    assert all(torch.equal(v, file.state_dict()[k.partition(".")[2]]) for k, v in model.state_dict().items())


def test_a_part_of_the_same_name_is_no_question():
    model, file = nn.ModuleDict({"online_rgb": body(), "online_depth": body()}), body()
    report = tg.load(model, under(**{"net.depth": file}))
    assert torch.equal(model["online_depth"]["fc"].weight, file["fc"].weight)
    assert {s.slot.name.partition(".")[0] for s in report.plan.fresh} == {"online_rgb"}


def test_names_with_slashes_are_read_with_dots():
    file = {"conv/kernel:0": torch.randn(3, 3, 3, 4), "conv/bias:0": torch.randn(4)}
    file |= {f"norm/{name}:0": torch.rand(4) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    file |= {"fc/kernel:0": torch.randn(4, 6), "fc/bias:0": torch.randn(6)}
    model = body()
    model["fc"] = nn.Linear(4, 6)
    report = tg.load(model, file)
    assert not report.plan.fresh
    assert torch.equal(model["conv"].weight, file["conv/kernel:0"].permute(3, 2, 0, 1))
    assert torch.equal(model["norm"].running_var, file["norm/moving_variance:0"])


def test_numbers_of_outputs_behind_names_with_dots_are_read_over():
    """Keras writes groups in place of slashes, and the number behind the name all the same."""
    sizes = {"dense": (12, 8), "dense_1": (8, 8), "dense_2": (8, 3)}
    file = {f"{name}.{name}.kernel:0": torch.randn(size) for name, size in sizes.items()}
    file |= {f"{name}.{name}.bias:0": torch.randn(size[1]) for name, size in sizes.items()}
    file = dict(sorted(file.items()))
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    assert not tg.load(model, file).plan.fresh
    for at, name in zip((0, 2, 4), sizes, strict=True):
        assert torch.equal(model[at].weight, file[f"{name}.{name}.kernel:0"].T)
        assert torch.equal(model[at].bias, file[f"{name}.{name}.bias:0"])


def test_numbers_that_tell_names_apart_stay():
    model, file = nn.Linear(4, 3), {"weight": torch.randn(3, 4), "bias": torch.randn(3), "bias:0": torch.randn(3)}
    report = tg.load(model, file)
    assert torch.equal(model.bias, file["bias"])
    assert [unused.spec.name for unused in report.plan.unused] == ["bias:0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": torch.ones(4, 4, dtype=torch.int8), "SCB": torch.ones(4)}, "8-bit integers"),
        ({"weight": torch.ones(4, 4, dtype=torch.uint8)}, "8-bit integers"),
        ({"weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, "8-bit floats"),
        (
            {"weight": None, "qweight": torch.ones(1, 4, dtype=torch.int32), "scales": torch.ones(1, 4)},
            "qweight: packed",
        ),
    ],
)
def test_packed_numbers_are_no_weights(change, said):
    file = nn.Linear(4, 4).state_dict() | change
    with pytest.raises(tg.PlanRefusedError, match=said):
        tg.load(nn.Linear(4, 4), {k: v for k, v in file.items() if v is not None})


def test_floats_of_eight_bits_are_taken_as_they_are_on_request():
    file = {"weight": torch.randn(4, 4).to(torch.float8_e4m3fn), "bias": torch.zeros(4)}
    model = nn.Linear(4, 4)
    tg.load(model, file, policy=tg.Policy(quantised=tg.Verdict.WARN))
    assert torch.equal(model.weight, file["weight"].float())


@pytest.mark.parametrize(
    ("path", "hint"), [("https://example.org/model.pt", "; nothing is downloaded: fetch it first"), ("model.pt", "")]
)
def test_an_address_is_no_path_and_the_error_says_so(path, hint):
    with pytest.raises(tg.MissingFileError) as caught:
        tg.inspect(path)
    assert str(caught.value).startswith(f"{path}: no such file or folder{hint}")
    assert ("downloaded" in str(caught.value)) is bool(hint)
