"""The memory that a load takes is told before, and is no less than what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.applying.undo import KEPT

WIDE = 1500


class Parts(nn.Module):
    def __init__(self, *, dtype=torch.float32, turned=False):
        super().__init__()
        self.first = nn.Linear(WIDE, WIDE, dtype=dtype)
        self.second = nn.Linear(WIDE, WIDE, dtype=dtype)
        if turned:
            self.second.weight = nn.Parameter(torch.randn(WIDE, WIDE).t())


def saved(model, path):
    tg.save(path, {k: torch.randn(v.shape).to(v.dtype) for k, v in model.state_dict().items()})
    return path


def test_moves_and_casts_keep_no_more_than_the_smallest(tmp_path):
    path = saved(Parts(dtype=torch.float16), tmp_path / "m.safetensors")
    for model in (Parts(dtype=torch.float16), Parts()):
        made = tg.plan(model, path)
        assert made.memory.kept == min(KEPT, sum(p.nbytes for p in model.parameters()))
        assert tg.load(model, path).cost.undo_bytes <= made.memory.kept
        assert "memory" not in str(made)


def test_a_slot_that_is_no_run_of_bytes_keeps_its_values(tmp_path):
    path = saved(Parts(), tmp_path / "m.safetensors")
    model = Parts(turned=True)
    made = tg.plan(model, path)
    assert made.memory.kept >= model.second.weight.nbytes
    assert tg.load(model, path).cost.undo_bytes <= made.memory.kept
    assert made.memory.working >= 3 * model.second.weight.nbytes
    assert made.memory.total == made.memory.kept + made.memory.working


def test_slots_that_share_memory_keep_everything(tmp_path):
    memory = torch.randn(KEPT // 4 + 4096)
    model = nn.Module()
    model.one, model.two = nn.Parameter(memory[:-4096]), nn.Parameter(memory[4096:])
    made = tg.plan(model, saved(model, tmp_path / "m.pt"))
    assert made.memory.kept == 2 * KEPT


def test_a_model_on_meta_has_nothing_to_keep(tmp_path):
    path = saved(Parts(), tmp_path / "m.safetensors")
    with torch.device("meta"):
        model = Parts()
    assert tg.plan(model, path).memory.kept == 0


@pytest.mark.parametrize("turned", [False, True])
def test_much_memory_is_told_in_one_line(tmp_path, turned, monkeypatch):
    monkeypatch.setattr("torchgraft.reporting.plan_views.NOTABLE_MEMORY", 38 << 20)
    monkeypatch.setattr("torchgraft.applying.memory_estimate.THREADS_USE", 24 << 20)  # whatever cores there are
    path = saved(Parts(), tmp_path / "m.safetensors")
    text = str(tg.plan(Parts(turned=turned), path))
    assert ("loading takes up to" in text) is turned
    assert "memory beside the model" in text or not turned


def test_names_and_shapes_alone_need_no_memory(tmp_path):
    path = saved(Parts(), tmp_path / "m.safetensors")
    assert tg.plan(path, path).memory is None
