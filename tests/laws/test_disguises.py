"""Whatever a checkpoint went through, what arrives is right: random models, random disguises, no tensor silently wrong.

A network of random depth and widths is saved, its state dict is put under several disguises one after the other (names,
layouts, parametrizations, company in the file), and loaded into a fresh model, which may have layers that the file lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg

FRESH = 7.0


class Block(nn.Module):
    """Attention and feed-forward with a choice of norms; `extra` has layers that older files lack."""

    def __init__(self, width: int, hidden: int, *, extra: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        if extra:
            self.adapter_down, self.adapter_up = nn.Linear(width, 2), nn.Linear(2, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)


class Net(nn.Module):
    """A stem with batch norms, blocks in a list, a head."""

    def __init__(self, shape: Shape, *, extra: bool = False, classes: int = 5) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        for a, b in zip((3, *shape.stem), (*shape.stem, shape.width), strict=True):
            stem += [nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.blocks = nn.ModuleList(Block(shape.width, shape.hidden, extra=extra) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, classes)


@dataclass(frozen=True)
class Shape:
    depth: int
    width: int
    hidden: int
    stem: tuple[int, ...]


shapes = st.builds(
    Shape, depth=st.integers(1, 4), width=st.sampled_from((4, 6, 8)), hidden=st.sampled_from((5, 8, 12)),
    stem=st.lists(st.sampled_from((4, 5, 6)), max_size=3).map(tuple),
)  # fmt: skip


def filled(model: nn.Module) -> nn.Module:
    """Give every element of the model a value of its own."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else torch.tensor(3))
    return model


def renamed(names):
    """Return a disguise that replaces segments of names."""
    return lambda file: {".".join(names.get(part, part) for part in key.split(".")): v for key, v in file.items()}


def wrapped(prefix):
    return lambda file: {prefix + key: value for key, value in file.items()}


def split_qkv(file):
    out = {}
    for key, value in file.items():
        if ".qkv." in key:
            dim = value.ndim - 1 if value.ndim == 2 and value.shape[1] == 3 * value.shape[0] else 0
            parts = zip("qkv", value.chunk(3, dim), strict=True)
            out |= {key.replace("qkv", f"{p}_proj"): part.clone() for p, part in parts}
        else:
            out[key] = value
    return out


def turned(file):
    return {k: v.T.contiguous() if v.ndim == 2 and k.endswith("weight") else v for k, v in file.items()}


def as_convolutions(file):
    return {k: v[..., None, None] if "fc" in k and v.ndim == 2 else v for k, v in file.items()}


def weight_normed(file):
    out = {}
    for key, value in file.items():
        if value.ndim == 2 and "fc" in key:
            out[key + "_g"] = value.norm(dim=1, keepdim=True)
            out[key + "_v"] = value * 2
        else:
            out[key] = value
    return out


def masked(file):
    out = {}
    for key, value in file.items():
        if ".proj.weight" in key:
            out |= {key + "_orig": value, key + "_mask": torch.ones_like(value)}
        else:
            out[key] = value
    return out


def without_counters(file):
    return {k: v for k, v in file.items() if not k.endswith("num_batches_tracked")}


def dotted_numbers(file):
    return {k.replace("norm1", "norm.1").replace("norm2", "norm.2"): v for k, v in file.items()}


def in_alphabetical_order(file):
    return dict(sorted(file.items()))


def with_company(file):
    return file | {"loss.centers": torch.rand(3, 2), "position_ids": torch.arange(4)[None]}


DISGUISES = {
    "module": wrapped("module."),
    "compiled": wrapped("_orig_mod."),
    "detector": wrapped("detector.backbone."),
    "words": renamed({"qkv": "in_proj", "fc1": "linear1", "fc2": "linear2", "proj": "out_proj", "norm": "ln_post"}),
    "lists": renamed({"blocks": "layers", "head": "classifier"}),
    "split": split_qkv,
    "turned": turned,
    "convolutions": as_convolutions,
    "weight norm": weight_normed,
    "mask": masked,
    "counters": without_counters,
    "dots": dotted_numbers,
    "alphabet": in_alphabetical_order,
    "company": with_company,
}


# The order matters: turned matrices can't be told from others once they are parametrized or kernels.
FORMS = ("weight norm", "mask", "convolutions")
several = st.lists(st.sampled_from(sorted(DISGUISES)), max_size=4, unique=True).map(
    lambda names: sorted((n for n in names if "turned" not in names or n not in FORMS), key=lambda n: n != "turned")
)


@settings(max_examples=60)
@given(shapes, several, st.booleans(), st.integers(0, 9999))
def test_nothing_that_arrives_is_wrong(shape, disguises, extra, seed):
    torch.manual_seed(seed)
    old = filled(Net(shape))
    file = {k: v.clone() for k, v in old.state_dict().items()}
    for name in disguises:
        file = DISGUISES[name](file)
    model = Net(shape, extra=extra)
    for value in model.state_dict().values():
        value.fill_(FRESH)
    report = tg.load(model, file, on_doubt="skip", min_coverage=0.0, policy=tg.Policy(coverage=tg.Verdict.WARN))
    truth, told = old.state_dict(), {name for s in report.plan.fresh for name in s.slot.names}
    wrong, missed = [], []
    for name, value in model.state_dict().items():
        if bool((value == FRESH).all()):
            if name in truth and name not in told and not name.endswith("num_batches_tracked"):
                missed.append(name)
        elif name not in truth or not torch.allclose(value.float(), truth[name].float(), rtol=1e-5, atol=1e-6):
            wrong.append(name)
    assert not wrong, (disguises, wrong)
    assert not missed, (disguises, missed)


@pytest.mark.parametrize("name", sorted(DISGUISES))
@settings(max_examples=5)
@given(shapes, st.booleans(), st.integers(0, 9999))
def test_one_disguise_alone_is_seen_through(name, shape, extra, seed):
    torch.manual_seed(seed)
    old = filled(Net(shape))
    model = Net(shape, extra=extra)
    report = tg.load(model, DISGUISES[name]({k: v.clone() for k, v in old.state_dict().items()}), on_doubt="take")
    truth, state = old.state_dict(), model.state_dict()
    assert {s.slot.name for s in report.plan.fresh} == {n for n in state if "adapter" in n}
    for key, value in truth.items():
        if name == "counters" and key.endswith("num_batches_tracked"):
            continue
        torch.testing.assert_close(state[key], value, msg=f"{name}: {key}")
