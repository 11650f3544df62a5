"""Processes that hold a model together on a device get their parts of what one process gets. Skipped where there is no device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device_models import checkpoint

import torchgraft as tg

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.xdist_group("devices"),
]

SCRIPT = Path(__file__).with_name("spread_over_devices.py")


@pytest.mark.parametrize("way", ["fsdp", "tensor parallel"])
@pytest.mark.parametrize(("backend", "size"), [("nccl", 1), ("cpu:gloo,cuda:nccl", 1), ("gloo", 2)])
def test_processes_on_a_device(backend, size, way, tmp_path):
    whole = {"embed.weight": (110, 60), "extra.weight": (20, 30), "extra.bias": (20,)}
    tg.save(tmp_path / "a.safetensors", checkpoint() | {name: torch.randn(shape) for name, shape in whole.items()})
    given = [str(size), backend, str(tmp_path / "store"), way, str(tmp_path / "a.safetensors")]
    running = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), *given], stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    try:
        errors = [process.communicate(timeout=100)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * size, "\n".join(errors)
