"""Many tensors at a time are what one at a time gives, whatever their order in the file and in the buffer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.reading import open_checkpoint


def tensors():
    """Return tensors of several types, all values distinct; one is strided, one holds truths."""
    made = {f"w{n}": torch.randn(3 + n, 5) for n in range(8)}
    made |= {f"count{n}": torch.tensor(10 + n) for n in range(3)}
    return made | {"turned": torch.randn(6, 4).t(), "true": torch.tensor([True, False]), "half": torch.randn(9).half()}


def write(kind, path):
    state = tensors()
    if kind == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return state


@pytest.mark.parametrize("kind", ["safetensors", "zip", "dict"])
@settings(max_examples=30, deadline=None)
@given(rng=st.randoms(use_true_random=False), take=st.integers(1, 20))
def test_many_are_what_one_at_a_time_gives(tmp_path_factory, kind, rng, take):
    path = tmp_path_factory.getbasetemp() / f"many.{kind}"
    torch.manual_seed(0)
    state = tensors() if kind == "dict" or path.exists() else write(kind, path)
    names = rng.choices(list(state), k=take)  # some more than once
    sizes = [state[name].nbytes for name in names]
    starts, at = [0] * take, 0
    for n in rng.sample(range(take), take):
        starts[n] = at = at + rng.choice([0, 0, 7])
        at += sizes[n]
    buffer = bytearray(at)
    with open_checkpoint(state if kind == "dict" else path) as source:
        source.read_many([("", name) for name in names], starts, sizes, memoryview(buffer))
    for name, start, size in zip(names, starts, sizes, strict=True):
        want = state[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert bytes(buffer[start : start + size]) == want


def test_a_damaged_record_is_found(tmp_path):
    write("zip", tmp_path / "a.pt")
    raw = bytearray((tmp_path / "a.pt").read_bytes())
    at = raw.find(tensor_bytes(tmp_path / "a.pt", "w3"))
    raw[at + 5] ^= 1
    (tmp_path / "b.pt").write_bytes(raw)
    with open_checkpoint(tmp_path / "b.pt") as source, pytest.raises(CorruptCheckpointError, match="wrong CRC"):
        source.read_many([("", "w2"), ("", "w3")], [0, 100], [100, 120], memoryview(bytearray(220)))


def tensor_bytes(path, name):
    return torch.load(path)[name].numpy().tobytes()
