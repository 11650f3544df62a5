"""What is done beside loading works as well with what lies on a device. Skipped where there is none."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from device_models import ASKED, alike, as_zip, as_zip_of_the_device, checkpoint, net
from torch import nn

import torchgraft as tg

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_values_are_looked_at_wherever_they_lie():
    """Tables of positions, rotary frequencies, adapters: a file's and a device's are told apart by nothing but where they lie."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 8)
            self.proj = nn.Linear(8, 12)
            self.register_buffer("inv_freq", 1.0 / 10 ** torch.arange(4.0), persistent=False)

    low = {"proj.lora_A.weight": torch.randn(2, 8), "proj.lora_B.weight": torch.randn(12, 2).cuda()}
    held = {
        "table.weight": torch.randn(9, 8).cuda(),
        "proj.weight": torch.randn(12, 8).cuda(),
        "proj.bias": torch.randn(12),
        "position_ids": torch.arange(2, 11).cuda()[None],
        "inv_freq": (1.0 / 20 ** torch.arange(4.0)).cuda(),
    } | low
    on_cpu = {name: value.cpu() for name, value in held.items()}
    reports = []
    for where, given in (("cuda", held), ("cpu", on_cpu), ("cuda", on_cpu)):
        model = Small().to(where)
        report = tg.load(model, given, merge_lora=0.5, statistics=True)
        merged = on_cpu["proj.weight"] + 0.5 * (low["proj.lora_B.weight"].cpu() @ low["proj.lora_A.weight"])
        assert torch.allclose(model.proj.weight.cpu(), merged, atol=1e-6)
        reports.append(str(report.plan))
    assert reports[0] == reports[1] == reports[2]
    assert "frequencies" in reports[0]


def test_what_is_on_one_device_is_compared_with_what_is_on_another(tmp_path):
    source, model = net(seed=7), net("cuda", seed=8)
    tg.load(model, source)
    assert tg.diff(source, model, values=True).equal
    with torch.no_grad():
        model.conv.bias[3] += 1
    (changed,) = tg.diff(source, model, values=True).value_changed
    assert (changed.old.name, changed.distance.elements) == ("conv.bias", 1)


def test_small_floats_and_complex_numbers(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.small = nn.Parameter(torch.randn(64, 64).to(torch.float8_e4m3fn), requires_grad=False)
            self.turns = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))
            self.register_buffer("flags", torch.rand(33) > 0.5)
            self.register_buffer("codes", torch.randint(-100, 100, (9, 3), dtype=torch.int8))
            self.one = nn.Parameter(torch.tensor(3.0))
            self.none = nn.Parameter(torch.empty(0, 4))

    source, model = Odd(), Odd().cuda()
    tg.load(model, as_zip(source.state_dict(), tmp_path))
    for name, value in source.state_dict().items():
        found = model.state_dict()[name].cpu()
        assert found.dtype == value.dtype
        if value.numel():
            assert torch.equal(found.view(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8)), name


def test_outputs_prove_it_on_the_device():
    source, model = net("cuda", seed=7), net("cuda", seed=8)
    report = tg.load(model, source)
    tokens = torch.randint(0, 110, (2, 9), device="cuda").flatten()
    proof = tg.verify(model, source, tokens, plan=report)
    assert proof.passed, str(proof)
    with torch.no_grad():
        model.blocks[1].down.weight[0, 0] += 1
    failed = tg.verify(model, source, tokens)
    assert not failed.passed
    assert "blocks.1.down" in str(failed)


def test_tuning_on_the_device():
    model = net("cuda")
    report = tg.load(model, checkpoint(), **ASKED)
    frozen = tg.freeze(model, report)
    groups = tg.param_groups(model, report, lr=1e-3, fresh_lr=1e-2)
    masks = tg.loaded_masks(model, report)
    frozen.undo()
    assert groups
    assert all(mask.is_cuda for mask in masks.values())
    optimizer = torch.optim.AdamW(model.parameters())
    before = model.blocks[0].q.weight.detach().clone()
    model.train()
    model(torch.randint(0, 110, (32,), device="cuda")).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, model.blocks[0].q.weight)


def test_save_and_diff_from_the_device(tmp_path):
    model = net("cuda")
    tg.save_model(tmp_path / "m.safetensors", model)
    assert not tg.diff(model, tmp_path / "m.safetensors", values=True).value_changed
    again = net("cuda", seed=9)
    tg.load(again, tmp_path / "m.safetensors")
    alike(again, {n: v.cpu() for n, v in model.state_dict().items()})
    tg.save(tmp_path / "n.safetensors", model.state_dict())
    assert not tg.diff(tmp_path / "n.safetensors", again, values=True).value_changed


def test_state_of_an_optimizer_lands_beside_its_parameters(tmp_path):
    model = net("cuda")
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randint(0, 110, (32,), device="cuda")).square().mean().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "t.ckpt")
    other = net("cuda", seed=2)
    report = tg.load(other, tmp_path / "t.ckpt")
    fresh = torch.optim.AdamW(other.parameters())
    tg.optimizer_state(other, fresh, report, tmp_path / "t.ckpt")
    theirs = dict(zip(dict(model.named_parameters()), model.parameters(), strict=True))
    for name, parameter in other.named_parameters():
        mine, old = fresh.state[parameter], optimizer.state[theirs[name]]
        assert set(mine) == set(old), name
        assert all(torch.equal(mine[key], old[key]) and mine[key].device == old[key].device for key in old), name


def test_a_compiled_model_and_a_captured_graph_see_the_new_values():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).cuda().eval()
    state = {n: torch.randn_like(v).cpu() for n, v in model.state_dict().items()}
    x = torch.randn(16, 64, device="cuda")
    with torch.no_grad():
        for _ in range(3):
            model(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        tg.load(model, state)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, model(x))


def test_the_device_is_left_alone_where_nothing_lies_there(tmp_path):
    """Waking it takes seconds and memory, and forks fail afterwards."""
    path = as_zip_of_the_device(checkpoint(), tmp_path)
    code = f"""
import torch, torchgraft as tg
from torch import nn
tg.inspect({str(path)!r})
m = nn.Sequential(nn.Linear(60, 60)); m.load = 1
tg.load(m, {{"0.weight": torch.randn(60, 60), "0.bias": torch.randn(60)}})
tg.plan(m, {str(path)!r})
tg.diff(m, {str(path)!r}, values=True)
tg.convert({str(path)!r}, {str(tmp_path / "out.safetensors")!r})
torch.save(m.state_dict(), {str(tmp_path / "m.pt")!r}); tg.load(m, {str(tmp_path / "m.pt")!r})
tg.verify(m, m, torch.randn(2, 60))
assert not torch.cuda.is_initialized()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
