"""Many pieces at once give what each would give alone, and no checksum is passed by."""

from __future__ import annotations

import os
import random
from itertools import pairwise

import pytest
import torch

import torchgraft as tg
from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.core.specs import Piece
from torchgraft.reading import open_checkpoint
from torchgraft.reading.disk.files import CheckpointFile

KINDS = (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8)


def state(count=40):
    """Return tensors of many sizes and types, the empty one and views of one storage included."""
    torch.manual_seed(7)
    out = {f"t{i}": (torch.randn(1 + i * i) * 9).to(KINDS[i % len(KINDS)]) for i in range(count)}
    shared = torch.randn(64, 8)
    return out | {"empty": torch.zeros(0, 3), "low": shared[:16], "high": shared[16:], "turned": torch.randn(5, 7).t()}


@pytest.fixture(params=[".pt", ".safetensors", "dict"])
def source(request, tmp_path):
    tensors = state()
    if request.param == "dict":
        return open_checkpoint(tensors)
    path = tmp_path / f"m{request.param}"
    if request.param == ".pt":
        torch.save(tensors, path)
    else:
        from safetensors.torch import save_file

        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    return open_checkpoint(path)


@pytest.mark.parametrize("order", ["file", "shuffled"])
def test_pieces_are_what_they_are_alone(source, order):
    rng, wanted = random.Random(3), state()  # noqa: S311
    pieces, expected = [], []
    for key, tensor in wanted.items():
        raw = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        cuts = sorted({0, len(raw), *(rng.randrange(len(raw) + 1) for _ in range(2))})
        for start, stop in pairwise(cuts):
            pieces.append(Piece("", key, start, memoryview(bytearray(stop - start))))
            expected.append(raw[start:stop])
    numbers = list(range(len(pieces)))
    if order == "shuffled":
        rng.shuffle(numbers)
    with source:
        source.read_pieces([pieces[n] for n in numbers])
    assert [bytes(piece.buffer) for piece in pieces] == expected


def test_neighbours_come_with_one_system_call(tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    torch.save({f"t{i}": torch.randn(100) for i in range(10)}, path)  # up to ten lie in order: "10" sorts before "2"
    calls = []
    plain = CheckpointFile.read_run
    monkeypatch.setattr(CheckpointFile, "read_run", lambda *given: (calls.append(given), plain(*given)))
    with open_checkpoint(path) as source:
        source.read_pieces([Piece("", f"t{i}", 0, memoryview(bytearray(400))) for i in range(10)])
    assert len(calls) == 1


@pytest.mark.parametrize("key", ["t0", "t25", "t39"])
def test_a_flipped_bit_among_neighbours_is_found(tmp_path, key):
    path = tmp_path / "m.pt"
    tensors = state()
    torch.save(tensors, path)
    with open_checkpoint(path) as source:
        leaf = source._tensors[""][key]
        at = leaf.source.archive.window.base + leaf.source.located()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    pieces = [Piece("", k, 0, memoryview(bytearray(v.numel() * v.element_size()))) for k, v in tensors.items()]
    with open_checkpoint(path) as source, pytest.raises(CorruptCheckpointError, match="wrong CRC"):
        source.read_pieces(pieces)


def test_a_file_that_is_cut_off_or_touched_meanwhile_is_found(tmp_path):
    path = tmp_path / "m.safetensors"
    tg.save_model(path, torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(9)]))
    for change in (lambda: os.truncate(path, path.stat().st_size - 1), lambda: os.utime(path, (1, 1))):
        with open_checkpoint(path) as source:
            specs = source.networks[0].specs
            change()
            pieces = [Piece("", key, 0, memoryview(bytearray(spec.nbytes))) for key, spec in specs.items()]
            with pytest.raises(CorruptCheckpointError, match="changed"):
                source.read_pieces(pieces)
        tg.save_model(path, torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(9)]))


def test_more_neighbours_than_one_call_takes_come_with_a_few(tmp_path, monkeypatch):
    path, calls = tmp_path / "m.safetensors", []
    tensors = {f"t{i:04}": torch.full((1 + i % 3,), float(i)) for i in range(3000)}
    tg.save(path, tensors)
    plain = os.preadv
    with open_checkpoint(path) as source:
        pieces = [
            Piece("", key, 0, memoryview(bytearray(spec.nbytes))) for key, spec in source.networks[0].specs.items()
        ]
        monkeypatch.setattr(os, "preadv", lambda *given: (calls.append(given), plain(*given))[1])
        source.read_pieces(pieces)
    assert len(calls) <= 4
    assert all(bytes(p.buffer) == tensors[p.key].numpy().tobytes() for p in pieces)
