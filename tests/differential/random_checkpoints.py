"""Random valid checkpoints in each of torch's formats: types, views of all kinds, sharing, nesting, protocols, byte orders."""

from __future__ import annotations

import io
import pickle
import random
import struct
import tarfile
import zipfile
from collections import OrderedDict

import torch
from torch import nn

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
)  # fmt: skip
# torch.load can't read its own files of the legacy format with types that have no storage class of their own.
TYPED = tuple(t for t in DTYPES if t not in (torch.uint16, torch.uint32, torch.uint64) and "float8" not in str(t))
TURNED = (torch.float32, torch.float16, torch.complex64, torch.complex128)
OLDEST = (torch.float32, torch.float64, torch.float16, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
WORDS = ("weight", "bias", "layers", "0", "11", "attn", "größe", "a b", "qkv", "running_mean", "x", "Ω", "_", "conv1")
FORMATS = ("zip", "legacy", "big-endian", "tar")


class Draw:
    """One checkpoint, drawn from a seed."""

    def __init__(self, seed):
        self.dice = random.Random(seed)  # noqa: S311
        self.numbers = torch.Generator().manual_seed(seed)
        self.format = self.dice.choice(FORMATS)
        self.protocol = self.dice.randint(2, 5)
        dtypes = {"tar": OLDEST, "legacy": TYPED}.get(self.format, DTYPES)
        self.storages = [self.storage(self.dice.choice(dtypes)) for _ in range(self.dice.randint(1, 4))]

    def storage(self, dtype):
        """Memory of 0 to 60 elements, as a flat tensor."""
        count = self.dice.choice((0, 1, 2, 7, 24, 60))
        if dtype is torch.bool:
            return torch.randint(0, 2, (count,), generator=self.numbers, dtype=torch.uint8).view(torch.bool)
        raw = torch.randint(0, 256, (count * dtype.itemsize,), generator=self.numbers, dtype=torch.uint8)
        return raw.view(dtype) if count else torch.empty(0, dtype=dtype)

    def swapped_by_torch(self):
        """Whether torch.load turns all storages: it doesn't those without a class, in a file of the other byte order."""
        return self.format != "big-endian" or all(s.dtype in TYPED for s in self.storages)

    def tensor(self):
        """A view of one of the storages: in order, transposed, strided, repeated, empty, or all of it."""
        base = self.dice.choice(self.storages)
        kind = self.dice.choice(("whole", "strided", "strided", "transposed", "scalar", "empty", "repeated"))
        if kind == "whole" or not len(base):
            out = base
        elif kind == "scalar":
            out = base[self.dice.randrange(len(base))]
        elif kind == "empty":
            out = base[:0].reshape(self.dice.choice(((0,), (0, 3), (2, 0, 1))))
        elif kind == "repeated":
            out = base[self.dice.randrange(len(base))].expand(3, 2)
        elif kind == "transposed" and len(base) >= 6:
            out = base[: len(base) // 6 * 6].reshape(2, 3, -1).permute(self.dice.sample(range(3), 3))
        else:
            out = self.strided(base)
        turned = self.format != "tar" and out.dtype in TURNED and not out.isnan().any()
        if turned and out.is_complex() and self.dice.random() < 0.4:  # of NaN, torch may change the bits
            return self.dice.choice((out.conj(), torch._neg_view(out), torch._neg_view(out.conj())))
        if turned and not out.is_complex() and self.dice.random() < 0.1:
            return torch._neg_view(out)
        if self.dice.random() < 0.15 and out.dtype.is_floating_point and self.format != "tar":
            return nn.Parameter(out, requires_grad=self.dice.random() < 0.5)
        return out

    def strided(self, base):
        """Any view that lies inside: sizes, strides and offset at random."""
        left, sizes, strides = len(base) - 1, [], []
        for _ in range(self.dice.randint(1, 4)):
            stride = self.dice.randint(0, 5)
            size = self.dice.randint(1, 1 + (left // stride if stride else 2))
            left -= (size - 1) * stride
            sizes.append(size)
            strides.append(stride)
        return base.as_strided(sizes, strides, self.dice.randint(0, left))

    def state(self):
        """A state dict of 1 to 8 tensors, some of them twice."""
        out = self.dice.choice((dict, OrderedDict))()
        for _ in range(self.dice.randint(1, 8)):
            name = ".".join(self.dice.choice(WORDS) for _ in range(self.dice.randint(1, 4)))
            out[name] = self.dice.choice(list(out.values())) if out and self.dice.random() < 0.1 else self.tensor()
        return out

    def tree(self):
        """A state dict, alone or as training scripts wrap it."""
        kind = self.dice.choice(("flat", "flat", "wrapped", "two"))
        if kind == "flat":
            return self.state()
        if kind == "wrapped":
            return {"state_dict": self.state(), "epoch": self.dice.randint(0, 9), "args": {"lr": 0.1, "name": "run"}}
        return {"encoder": self.state(), "decoder": self.state(), "version": "1.2"}

    def bytes(self):
        """Return (the file, what torch.load must make of it)."""
        tree = self.tree()
        if self.format == "tar":
            return tar(tree), tree
        file = io.BytesIO()
        torch.save(tree, file, pickle_protocol=self.protocol, _use_new_zipfile_serialization=self.format != "legacy")
        return (big_endian(file.getvalue(), tree) if self.format == "big-endian" else file.getvalue()), tree


def big_endian(raw, tree):
    """The same file as a big-endian machine would have written it: each storage swapped by its element."""
    units = units_of(raw, tree)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                unit = units[name.rpartition("/")[2]]
                data = b"".join(data[i : i + unit][::-1] for i in range(0, len(data), unit))
            new.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def units_of(raw, tree):
    """The number of bytes that are swapped together, by storage key. torch hands keys out as it meets storages."""
    found, keys = {}, {}
    for value in flat(tree).values():
        pointer = value.untyped_storage()._cdata
        if pointer not in keys:
            keys[pointer] = str(len(keys))
            found[keys[pointer]] = value.dtype.itemsize // (2 if value.dtype.is_complex else 1)
    return found


class TarPickler(pickle.Pickler):
    """A pickler that names tensors by their keys."""

    def persistent_id(self, value):
        return str(id(value)) if isinstance(value, torch.Tensor) else None


def tar(tree):
    """The format of torch before 0.1.10: members storages, tensors and pickle."""
    tensors = {id(t): t for t in flat(tree).values()}
    storages = {t.untyped_storage()._cdata: t for t in tensors.values()}
    parts = {"storages": pickle.dumps(len(storages), 2), "tensors": pickle.dumps(len(tensors), 2)}
    for key, t in storages.items():
        storage = t.untyped_storage()
        parts["storages"] += pickle.dumps((key, "cpu", CLASSES[t.dtype]), 2)
        parts["storages"] += struct.pack("<q", storage.nbytes() // t.dtype.itemsize) + bytes(storage)
    parts["storages"] += pickle.dumps([], 2)
    for key, t in tensors.items():
        parts["tensors"] += pickle.dumps((key, t.untyped_storage()._cdata, type(t)), 2)
        numbers = (*t.shape, *t.stride(), t.storage_offset())
        parts["tensors"] += struct.pack("<ii", t.dim(), 0) + struct.pack(f"<{len(numbers)}q", *numbers)
    body = io.BytesIO()
    TarPickler(body, 2).dump(tree)
    parts["pickle"] = body.getvalue()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


CLASSES = {
    torch.float32: torch.FloatStorage, torch.float64: torch.DoubleStorage, torch.float16: torch.HalfStorage,
    torch.int8: torch.CharStorage, torch.uint8: torch.ByteStorage, torch.int16: torch.ShortStorage,
    torch.int32: torch.IntStorage, torch.int64: torch.LongStorage,
}  # fmt: skip


def flat(tree, prefix=""):
    """The tensors of nested dicts by dotted names."""
    out = {}
    for key, value in tree.items():
        if isinstance(value, torch.Tensor):
            out[f"{prefix}{key}"] = value
        elif isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
    return out
