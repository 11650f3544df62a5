"""What lies in a distributed checkpoint beside its tensors: values that were pickled, some of which hold tensors or arrays."""

from collections import deque

import numpy as np
import torch
import torch.distributed.checkpoint as dcp

import torchgraft as tg


def saved(folder, state):
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    return tg.open_checkpoint(folder)


def test_arrays_and_tensors_inside_pickled_entries_are_read(tmp_path):
    state = {
        "weight": torch.randn(3, 4),
        "array": np.random.default_rng(0).normal(size=(2, 3)),
        "queue": deque([torch.randn(5), torch.randn(2, 2).t()]),
        "plain": (1, "a"),
    }
    with saved(tmp_path / "out", state) as source:
        assert torch.equal(source.read("", "weight"), state["weight"])
        assert torch.equal(source.read("(beside)", "array"), torch.from_numpy(state["array"]))
        for number, value in enumerate(state["queue"]):
            assert torch.equal(source.read("", f"queue.{number}"), value)


def test_foreign_classes_of_pickled_entries_are_named(tmp_path):
    with saved(tmp_path / "out", {"weight": torch.randn(3), "beside": np.random.default_rng(0)}) as source:
        assert any("numpy" in name for name in source.metadata["foreign_classes"])


def test_views_saved_with_their_signs_to_be_turned_are_read(tmp_path):
    complex_ = torch.randn(3, 2, dtype=torch.complex64)
    state = {"conj": complex_.conj(), "neg": torch._neg_view(torch.randn(4))}
    with saved(tmp_path / "out", state) as source:
        for name, value in state.items():
            assert torch.equal(source.read("", name), value.resolve_conj().resolve_neg())
