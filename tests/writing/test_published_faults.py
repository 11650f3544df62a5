"""Published faults of other writers that ours must not have; the names of the tests say which."""

import os
import stat

import pytest
import torch
from safetensors.torch import load_file

import torchgraft


@pytest.fixture
def state():
    return {f"l{n}.w": torch.arange(6.0).reshape(2, 3) + n for n in range(4)}


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_safetensors_782_files_are_readable_as_the_umask_says(state, tmp_path, name):
    before = os.umask(0o022)
    try:
        torchgraft.save(tmp_path / name, state)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644


def test_safetensors_762_a_file_may_be_written_over_by_its_own_tensors(state, tmp_path):
    path = tmp_path / "m.safetensors"
    torchgraft.save(path, state)
    mapped = load_file(path)
    torchgraft.save(path, mapped)
    assert all(torch.equal(value, state[key]) for key, value in load_file(path).items())
