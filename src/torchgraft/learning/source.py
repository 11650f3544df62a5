"""A checkpoint seen through a learned conversion: other names and shapes, values made as they are read."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.facts import CONVERTED, OWN
from torchgraft.core.listing import listed
from torchgraft.core.results.conversion import Conversion, Output
from torchgraft.core.specs import Extent, Network, Source, SourceOver
from torchgraft.core.types import Tensor
from torchgraft.learning.running import expect_fit, misfits, spec_of, value_of

# Facts of the file that speak of the names and bytes before the conversion.
_OF_OLD_NAMES = (*OWN, "versions")


class ConvertedSource(SourceOver):
    """The Source that a conversion makes of another one.

    A tensor that is only renamed is read from the file as it was; any other is made from whole tensors, and kept until
    another one is asked for by the same thread: memory of its feeds and of itself.
    """

    def __init__(self, conversion: Conversion, source: Source, prefer: str | None = None) -> None:
        network = _fitting(conversion, source, prefer)
        super().__init__(source)
        self._network = network.path
        self._outputs: Mapping[str, Output] = conversion.by_name
        self._last = threading.local()
        self.format = source.format + CONVERTED
        specs = {name: spec_of(output, network.specs) for name, output in self._outputs.items()}
        self.networks = (Network(network.path, specs, network.role, _shared(conversion, network)),)
        self.metadata = {key: value for key, value in source.metadata.items() if key not in _OF_OLD_NAMES}
        self.warnings = (*source.warnings, *_remarks(conversion))

    def position(self, network: str, key: str) -> tuple[int, int]:
        """Return the position of the first tensor that feeds this one."""
        feeds = self._output(network, key).feeds
        return self._source.position(self._network, feeds[0].key) if feeds else (-1, -1)

    def read(self, network: str, key: str) -> Tensor:
        return value_of(self._output(network, key), lambda name: self._source.read(self._network, name))

    def read_into(self, network: str, key: str, buffer: memoryview, start: int = 0) -> None:
        output = self._output(network, key)
        if output.plain:
            self._source.read_into(self._network, output.feeds[0].key, buffer, start)
            return
        view = buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")
        if view:
            view[:] = self._bytes(network, key)[start : start + len(view)]

    def _bytes(self, network: str, key: str) -> memoryview:
        import torch

        name, data = getattr(self._last, "held", (None, None))
        if name != key or data is None:
            self._last.held = (None, None)
            value = self.read(network, key).resolve_conj().resolve_neg().contiguous()
            data = value.reshape(-1).view(torch.uint8).numpy().data
            self._last.held = (key, data)
        return data

    def divisible(self, network: str, key: str) -> bool:
        output = self._output(network, key)
        return output.plain and self._source.divisible(self._network, output.feeds[0].key)

    def extent(self, network: str, key: str, start: int, size: int) -> Extent | None:
        """Return where bytes of a tensor lie in an open file as they are wanted, where the tensor is only renamed."""
        output = self._output(network, key)
        return self._source.extent(self._network, output.feeds[0].key, start, size) if output.plain else None

    def check(self, network: str, key: str) -> None:
        for feed in self._output(network, key).feeds:
            self._source.check(self._network, feed.key)

    def _output(self, network: str, key: str) -> Output:
        if network != self._network or key not in self._outputs:
            raise UsageError(f"{self.origin}: no tensor {printable(key)!r} in network {printable(network)!r}")
        return self._outputs[key]


def _fitting(conversion: Conversion, source: Source, prefer: str | None) -> Network:
    """Return the network of the source that the conversion was learned for; else raise for the nearest one."""
    called = [
        n for n in source.networks if prefer is None or n.path == prefer or prefer in (n.role, *n.path.split("/"))
    ]
    if not called:
        found = ", ".join(repr(n.path) if n.path else "the top level" for n in source.networks[:8]) or "none"
        raise UsageError(f"prefer={prefer!r}: the file holds no such network; it holds {found}")
    rated = [(sum(1 for _ in misfits(conversion, network.specs)), at) for at, network in enumerate(called)]
    best = called[min(rated)[1]]
    expect_fit(conversion, best.specs, source.origin)
    return best


def _shared(conversion: Conversion, network: Network) -> dict[str, str]:
    """Return outputs that are the very same tensor as an earlier one: renamed from one, or from two that share memory."""
    known = network.shared or {}
    firsts: dict[str, str] = {}
    shared: dict[str, str] = {}
    for output in conversion.outputs:
        if output.plain:
            key = known.get(output.feeds[0].key, output.feeds[0].key)
            first = firsts.setdefault(key, output.name)
            if first != output.name:
                shared[output.name] = first
    return shared


def _remarks(conversion: Conversion) -> list[str]:
    if not conversion.computed:
        return []
    names = [found.spec.name for found in conversion.computed]
    return [f"the learned conversion leaves out what was computed and not moved: {listed(names)}"]
