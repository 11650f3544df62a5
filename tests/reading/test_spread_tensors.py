"""Tensors that were spread over processes (DTensor), saved as they are by one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import torchgraft as tg

if TYPE_CHECKING:
    from pathlib import Path

Size = tuple[int, ...]


@pytest.fixture(params=[1, 2])
def processes(request: pytest.FixtureRequest) -> Iterator[int]:
    """Processes that all but this one are pretended."""
    dist.init_process_group("fake", rank=0, world_size=request.param, store=FakeStore())
    yield request.param
    dist.destroy_process_group()


def _saved(path: Path, processes: int, local: torch.Tensor, placement: Placement, size: Size) -> Path:
    mesh = init_device_mesh("cpu", (processes,))
    spread = DTensor.from_local(local, mesh, [placement], run_check=False, shape=torch.Size(size), stride=(size[1], 1))
    torch.save({"weight": spread, "bias": torch.arange(4.0)}, path)
    return path


def test_a_part_that_is_the_whole_is_read(tmp_path: Path, processes: int) -> None:
    values = torch.randn(4, 3)
    path = _saved(tmp_path / "whole.pt", processes, values, Shard(0) if processes == 1 else Replicate(), (4, 3))
    model = torch.nn.Linear(3, 4)
    tg.load(model, path)
    assert torch.equal(model.weight, values)
    assert torch.equal(model.bias, torch.arange(4.0))


@pytest.mark.parametrize("processes", [2], indirect=True)
def test_a_part_is_refused_and_told_what_it_is(tmp_path: Path, processes: int) -> None:
    path = _saved(tmp_path / "part.pt", processes, torch.randn(2, 3), Shard(0), (4, 3))
    with pytest.raises(tg.UnsupportedCheckpointError, match=r"weight is one process's part \(2, 3\) of \(4, 3\)"):
        tg.load(torch.nn.Linear(3, 4), path)


@pytest.mark.parametrize("processes", [2], indirect=True)
def test_a_summand_is_no_whole(tmp_path: Path, processes: int) -> None:
    path = _saved(tmp_path / "sum.pt", processes, torch.randn(4, 3), Partial(), (4, 3))
    with pytest.raises(tg.UnsupportedCheckpointError, match="weight is one process's part"):
        tg.inspect(path)
