"""A conversion applied to a checkpoint: other names and shapes, values made as they are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.facts import CONVERTED, OWN
from torchgraft.core.formatting import listed
from torchgraft.core.results.conversion import Conversion, Output
from torchgraft.core.specs import Extent, Network, Source, SourceOver, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.core.values import bytes_of
from torchgraft.ops import run_step, step_specs

# Facts of the file that speak of the names and bytes before the conversion.
_FACTS_OF_OLD_NAMES = (*OWN, "versions")


class ConvertedSource(SourceOver):
    """The Source that a conversion makes of another one.

    A tensor that is only renamed is read from the file as it was; any other is made from whole tensors, and kept until
    another one is asked for by the same thread: memory of its feeds and of itself.
    """

    def __init__(self, conversion: Conversion, source: Source, prefer: str | None = None) -> None:
        network = _fitting_network(conversion, source, prefer)
        super().__init__(source)
        self._network = network.path
        self._outputs: Mapping[str, Output] = conversion.by_name
        self._last = threading.local()
        self.format = source.format + CONVERTED
        specs = {name: spec_of(output, network.specs) for name, output in self._outputs.items()}
        self.networks = (Network(network.path, specs, network.role, _shared_outputs(conversion, network)),)
        self.metadata = {key: value for key, value in source.metadata.items() if key not in _FACTS_OF_OLD_NAMES}
        self.warnings = (*source.warnings, *_warnings(conversion))

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
            view[:] = self._converted_bytes(network, key)[start : start + len(view)]

    def _converted_bytes(self, network: str, key: str) -> memoryview:
        name, data = getattr(self._last, "held", (None, None))
        if name != key or data is None:
            self._last.held = (None, None)
            data = bytes_of(self.read(network, key))
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


def _fitting_network(conversion: Conversion, source: Source, prefer: str | None) -> Network:
    """Return the network of the source that the conversion was made for; else raise for the nearest one."""
    candidates = [
        n for n in source.networks if prefer is None or n.path == prefer or prefer in (n.role, *n.path.split("/"))
    ]
    if not candidates:
        found = ", ".join(repr(n.path) if n.path else "the top level" for n in source.networks[:8]) or "none"
        raise UsageError(f"prefer={prefer!r}: the file holds no such network; it holds {found}")
    rated = [(sum(1 for _ in misfits(conversion, network.specs)), at) for at, network in enumerate(candidates)]
    best = candidates[min(rated)[1]]
    require_fit(conversion, best.specs, source.origin)
    return best


def _shared_outputs(conversion: Conversion, network: Network) -> dict[str, str]:
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


def _warnings(conversion: Conversion) -> list[str]:
    computed, absent = ([one.spec.name for one in some] for some in (conversion.computed, conversion.absent))
    return [
        *(
            [f"the learned conversion leaves out what was computed and not moved: {listed(computed)}"]
            if computed
            else []
        ),
        *([f"not given back: {listed(absent)}; inverse() says why"] if absent else []),
        *(
            [f"given back in part, the checkpoint has no place for the rest: {listed(conversion.partly)}"]
            if conversion.partly
            else []
        ),
    ]


def value_of(output: Output, read: Callable[[str], Tensor]) -> Tensor:
    """Return the tensor that `output` describes; `read` gives source tensors. May share memory with what was read."""
    return run_step(output, lambda feed: read(feed.key))[0]


def spec_of(output: Output, specs: Mapping[str, TensorSpec]) -> TensorSpec:
    """Return the spec of what `output` makes of a source with these specs, under the output's name.

    Raises:
        UsageError: the source doesn't fit.
    """
    (found,) = step_specs(output, lambda feed: specs[feed.key])
    return type(output.spec)(output.name, found.shape, found.dtype)


def misfits(conversion: Conversion, specs: Mapping[str, TensorSpec]) -> Iterator[tuple[str, str]]:
    """Yield (name, what is wrong) for each source tensor that is used, and is missing from `specs` or of another shape.

    Element types may differ, unless the conversion joins tensors of one type.
    """
    dropped = set(conversion.dropped)
    for name, spec in conversion.sources.items():
        if name in dropped:
            continue
        given = specs.get(name)
        if given is None:
            yield name, f"{printable(name)} {list(spec.shape)} is missing"
        elif given.shape != spec.shape:
            yield (
                name,
                f"{printable(name)} is {list(given.shape)}, was {list(spec.shape)} when the conversion was made",
            )


def require_fit(conversion: Conversion, specs: Mapping[str, TensorSpec], origin: str) -> None:
    """Refuse a source that the conversion was not made for.

    Raises:
        UsageError: names or shapes differ, with up to four of them.
    """
    wrong = list(misfits(conversion, specs))
    if wrong:
        differences = "; ".join(text for _, text in wrong[:4])
        more = f" and {len(wrong) - 4} more ({listed([name for name, _ in wrong[4:]], 3)})" if len(wrong) > 4 else ""
        raise UsageError(
            f"{origin} is not what this conversion was made for: {differences}{more}; make it again for this one"
        )
