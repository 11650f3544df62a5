"""What every reader promises. A test class inherits `SourceContract` and says how its files are made."""

from __future__ import annotations

import threading

import pytest
import torch

from torchgraft.core.errors import UsageError
from torchgraft.reading import open_checkpoint


def distinct(*shape, dtype=torch.float32, seed=0):
    """A tensor of random values that no other tensor of the test has."""
    generator = torch.Generator().manual_seed(seed * 1009 + len(shape) * 31 + sum(shape))
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(*shape, generator=generator, dtype=torch.float32).to(dtype)
    return torch.randint(0, 100, shape, generator=generator).to(dtype)


def raw(tensor):
    """The bytes of a tensor, so that NaN equals itself and -0.0 does not equal 0.0."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(a, b):
    return a.dtype is b.dtype and a.shape == b.shape and raw(a) == raw(b)


class SourceContract:
    """Inherit it, and give `make(tmp_path, state)`, and what the format can't hold in `unfit`."""

    unfit: tuple = ()
    format = ""

    def make(self, tmp_path, state):
        raise NotImplementedError

    @pytest.fixture
    def state(self):
        everything = {
            "w": distinct(3, 4),
            "norm.weight": distinct(7, seed=1),
            "big": distinct(64, 33, seed=2),
            "narrow": distinct(5, dtype=torch.float16, seed=3),
            "brain": distinct(2, 5, dtype=torch.bfloat16, seed=4),
            "wide": distinct(2, 2, dtype=torch.float64, seed=5),
            "long": distinct(4, dtype=torch.int64, seed=6),
            "byte": distinct(9, dtype=torch.uint8, seed=7),
            "mask": distinct(6, dtype=torch.bool, seed=8),
            "f8": distinct(8, seed=9).to(torch.float8_e4m3fn),
            "complex": distinct(3, dtype=torch.complex64, seed=10),
            "scalar": torch.tensor(3.25),
            "nothing": torch.empty(0, 3),
        }
        return {k: v for k, v in everything.items() if k not in self.unfit}

    @pytest.fixture
    def source(self, tmp_path, state):
        with open_checkpoint(self.make(tmp_path, state)) as source:
            yield source

    def network(self, source):
        return next(n for n in source.networks if n.path == "")

    def test_keys_come_in_file_order_with_shapes_and_types(self, source, state):
        specs = self.network(source).specs
        assert set(specs) == set(state)
        for key, value in state.items():
            assert specs[key].shape == tuple(value.shape)
            assert f"torch.{specs[key].dtype.label}" == str(value.dtype)

    def test_values_are_exact(self, source, state):
        for key, value in state.items():
            assert same(source.read("", key), value), key

    def test_pieces_give_the_same_bytes(self, source, state):
        for key, value in state.items():
            whole = raw(value)
            for step in (3, 64, max(len(whole), 1)):
                out = bytearray(len(whole))
                for at in range(0, len(whole), step):
                    source.read_into("", key, memoryview(out)[at : at + step], at)
                assert bytes(out) == whole, key

    def test_threads_read_alike(self, source, state):
        wrong = []

        def work():
            wrong.extend(k for k, v in state.items() for _ in range(5) if not same(source.read("", k), v))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_positions_are_pairs_of_numbers(self, source, state):
        for key in state:
            number, offset = source.position("", key)
            assert number >= 0
            assert offset >= 0

    def test_an_unknown_key_is_the_callers_mistake(self, source):
        with pytest.raises(UsageError, match=r"no such|no tensor"):
            source.read("", "never there")

    def test_says_what_it_is(self, source):
        assert source.format == self.format
        assert source.origin
