"""Each format against the contract, files written by the format's own library."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from source_contract import SourceContract

NO_NUMPY = ("brain", "f8")


class TestTorchZip(SourceContract):
    format = "torch zip"

    def make(self, tmp_path, state):
        torch.save(state, tmp_path / "m.pt")
        return tmp_path / "m.pt"


class TestTorchZipProtocol5(TestTorchZip):
    def make(self, tmp_path, state):
        torch.save(state, tmp_path / "m.pt", pickle_protocol=5)
        return tmp_path / "m.pt"


class TestTorchLegacy(SourceContract):
    format = "torch legacy"

    def make(self, tmp_path, state):
        torch.save(state, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
        return tmp_path / "m.pth"


class TestSafetensors(SourceContract):
    format = "safetensors"

    def make(self, tmp_path, state):
        save_file(state, tmp_path / "m.anything")
        return tmp_path / "m.anything"


class TestShards(SourceContract):
    format = "safetensors shards"

    def make(self, tmp_path, state):
        half = len(state) // 2
        places = {}
        for i, keys in enumerate((list(state)[:half], list(state)[half:])):
            name = f"model-0000{i + 1}-of-00002.safetensors"
            save_file({k: state[k] for k in keys}, tmp_path / name)
            places |= dict.fromkeys(keys, name)
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        return tmp_path


class TestBinShardsWithoutIndex(SourceContract):
    format = "torch zip shards"

    def make(self, tmp_path, state):
        half = len(state) // 2
        for i, keys in enumerate((list(state)[:half], list(state)[half:])):
            torch.save({k: state[k] for k in keys}, tmp_path / f"pytorch_model-0000{i + 1}-of-00002.bin")
        return tmp_path


class TestNpz(SourceContract):
    format = "npz"
    unfit = NO_NUMPY

    def make(self, tmp_path, state):
        np.savez(tmp_path / "m.npz", **{k: v.numpy() for k, v in state.items()})
        return tmp_path / "m.npz"


class TestCompressedNpz(TestNpz):
    def make(self, tmp_path, state):
        np.savez_compressed(tmp_path / "m.npz", **{k: v.numpy() for k, v in state.items()})
        return tmp_path / "m.npz"


class TestHdf5(SourceContract):
    format = "HDF5"
    unfit = NO_NUMPY

    def make(self, tmp_path, state):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "m.h5", "w") as file:
            for key, value in state.items():
                file[key.replace(".", "/")] = value.numpy()
        return tmp_path / "m.h5"


class TestGguf(SourceContract):
    format = "GGUF"
    unfit = ("mask", "byte", "f8", "complex", "brain", "nothing", "scalar")

    def make(self, tmp_path, state):
        gguf = pytest.importorskip("gguf")
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "test")
        for key, value in state.items():
            writer.add_tensor(key, value.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "m.gguf"


class TestDistributed(SourceContract):
    format = "DCP"
    unfit = ("nothing",)

    def make(self, tmp_path, state):
        import torch.distributed.checkpoint as dcp

        dcp.save(dict(state), storage_writer=dcp.FileSystemWriter(tmp_path / "ckpt"))
        return tmp_path / "ckpt"


class TestDict(SourceContract):
    format = "dict"

    def make(self, tmp_path, state):
        return state


class TestModule(SourceContract):
    format = "module"

    def make(self, tmp_path, state):
        root = torch.nn.Module()
        for key, value in state.items():
            owner = root
            *above, name = key.split(".")
            for part in above:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_buffer(name, value)
        return root


class TestWholeModule(SourceContract):
    """A pickled module is read without its class, dotted names and all."""

    format = "torch zip"

    def make(self, tmp_path, state):
        torch.save(TestModule().make(tmp_path, state), tmp_path / "m.pt")
        return tmp_path / "m.pt"
