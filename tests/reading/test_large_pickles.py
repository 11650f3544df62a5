"""Pickles of honest files may be large: what they hold beside tensors is read, however many opcodes it takes."""

import pytest
import torch
import torch.distributed.checkpoint as dcp

import torchgraft as tg
from torchgraft.reading.pickles import machine


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    """The bound in small: a round of 1000 opcodes, 8 of them free."""
    monkeypatch.setattr(machine, "ROUND", 1000)


def test_tables_of_words_beside_their_embedding(tmp_path):
    words = {f"word{i}": i for i in range(20_000)}
    torch.save({"words": words, "model": {"emb.weight": torch.zeros(20_000, 8)}}, tmp_path / "a.pt")
    with tg.open_checkpoint(tmp_path / "a.pt") as source:
        assert [list(network.specs) for network in source.networks] == [["emb.weight"]]


def test_histories_of_numbers_in_small_files_have_a_bound(tmp_path):
    torch.save({"history": [[] for _ in range(30_000)], "model": {"w": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(tg.LimitExceededError, match="far too many for the file"):
        tg.inspect(tmp_path / "a.pt")


@pytest.mark.parametrize("protocol", [2, 4])
def test_many_tensors_of_any_protocol(tmp_path, protocol):
    state = {f"l.{i}": torch.zeros(2) for i in range(2000)}
    torch.save(state, tmp_path / "a.pt", pickle_protocol=protocol)
    torch.save(state, tmp_path / "b.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.pt"):
        with tg.open_checkpoint(tmp_path / name) as source:
            assert len(source.networks[0].specs) == 2000


def test_many_chunks_of_a_distributed_checkpoint(tmp_path):
    dcp.save({f"l.{i}": torch.zeros(2) for i in range(600)}, checkpoint_id=tmp_path)
    with tg.open_checkpoint(tmp_path) as source:
        assert len(source.networks[0].specs) == 600
