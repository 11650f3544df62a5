"""A source that lies in memory, plans made by hand, and a fingerprint of everything a load may not disturb."""

from __future__ import annotations

import hashlib

import torch

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Feed, Plan, Step, Why
from torchgraft.core.policy import Policy
from torchgraft.core.specs import Network, TensorSpec

WHY = Why("test", "by hand")


class MemorySource:
    """A checkpoint that is a dict; the k-th read (counted from 0) can be made to fail."""

    origin = "<test>"
    format = "dict"
    metadata: dict = {}  # noqa: RUF012
    warnings = ()

    def __init__(self, tensors, fail_at=None, error=OSError):
        self.tensors = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        self.fail_at = fail_at
        self.error = error
        self.reads = 0

    @property
    def networks(self):
        specs = {k: TensorSpec(k, tuple(v.shape), DType.of(str(v.dtype))) for k, v in self.tensors.items()}
        return (Network("", specs),)

    def position(self, network, key):
        return (0, list(self.tensors).index(key))

    def _count(self):
        self.reads += 1
        if self.fail_at is not None and self.reads > self.fail_at:
            raise self.error("injected")

    def read(self, network, key):
        self._count()
        return self.tensors[key]

    def divisible(self, network, key):
        return True

    def check(self, network, key):
        pass

    def read_into(self, network, key, buffer, start=0):
        data = self.tensors[key].reshape(-1).view(torch.uint8).numpy()
        half = len(buffer) // 2
        buffer[:half] = data[start : start + half].data
        self._count()
        buffer[half:] = data[start + half : start + len(buffer)].data

    def read_pieces(self, pieces):
        for piece in pieces:
            self.read_into(piece.network, piece.key, piece.buffer, piece.start)

    def read_many(self, tensors, starts, sizes, buffer):
        for (network, key), start, size in zip(tensors, starts, sizes, strict=True):
            self.read_into(network, key, buffer[start : start + size])


def reads_in_parts(source):
    """Count what is read of each key: return a dict that is filled while `source` is used."""
    counted, plain = {}, source.read_into

    def counting(network, key, buffer, start=0):
        counted[key] = counted.get(key, 0) + len(buffer)
        plain(network, key, buffer, start)

    source.read_into = counting
    return counted


def source_for(target, seed=0, **kwargs):
    """Return a source with a random tensor for each persistent slot."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for slot in target.slots:
        if slot.persistent:
            dtype = getattr(torch, slot.spec.dtype.label)
            tensors[slot.name] = (torch.randn(slot.spec.shape, generator=generator) * 5).to(dtype)
    return MemorySource(tensors, **kwargs)


def plan_for(target, source, policy=None, **steps):
    """Return the plan that copies equal names; `steps` maps slot names (dots as __) to other steps."""
    made = []
    specs = source.networks[0].specs
    for slot in target.slots:
        special = steps.get(slot.name.replace(".", "__"))
        feeds = (Feed(slot.name),) if slot.name in specs else ()
        made.append(special or Step(slot=slot, feeds=feeds, why=WHY))
    return Plan(steps=tuple(made), source_specs=specs, policy=policy or Policy())


def fingerprint(model):
    """Return everything about the tensors of `model`: identity, values, memory, version, flags, gradients."""
    out = []
    for module in model.modules():
        for home in (module._parameters, module._buffers):
            for name, t in home.items():
                if t is None:
                    continue
                values = (
                    ""
                    if t.is_meta
                    else hashlib.sha256(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
                )
                grad = None if t.grad is None else t.grad.tolist()
                out.append(
                    (
                        name,
                        id(t),
                        type(t),
                        t.is_meta,
                        t.data_ptr(),
                        t.dtype,
                        tuple(t.shape),
                        t.stride(),
                        t.requires_grad,
                        t._version,
                        values,
                        grad,
                    )
                )
    return out
