"""Learning a conversion, and what can be done with what was learned."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torchgraft.core.errors import printable
from torchgraft.core.results.conversion import Conversion
from torchgraft.core.shown import Renderers
from torchgraft.core.specs import Source, TensorSpec
from torchgraft.core.system.commit import write_bytes
from torchgraft.core.system.stored import read_json
from torchgraft.core.types import Tensor
from torchgraft.learning.outputs import output_of
from torchgraft.learning.plain import from_plain, to_plain
from torchgraft.learning.probes import Convert, Numbering, trace
from torchgraft.learning.proving import proved
from torchgraft.learning.running import expect_fit, value_of
from torchgraft.learning.source import ConvertedSource

LARGEST = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Learned(Conversion):
    """A conversion that was learned: read it, run it on other values, turn it round, keep it in a file."""

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the conversion makes of `state`, computed outputs left out. May share memory with `state`.

        Raises:
            UsageError: a tensor is missing or has another shape than when the conversion was learned.
        """
        from torchgraft.learning.probes import spec_of

        expect_fit(self, {name: spec_of(name, value) for name, value in state.items()}, "the state dict")
        return {output.name: value_of(output, state.__getitem__) for output in self.outputs}

    def opened(self, source: Source, prefer: str | None = None) -> Source:
        """Return an opened checkpoint as the conversion sees it: other names, values computed as they are read.

        Of several networks in the checkpoint the first that fits is taken, or the one that `prefer` names.

        Raises:
            UsageError: no network of the checkpoint has the names and shapes that the conversion was learned for.
        """
        return ConvertedSource(self, source, prefer)

    def inverse(self) -> Self:
        """Return the conversion that gives the source back.

        Raises:
            UsageError: a part of the source is not in the outputs, or is rounded there; all such tensors are named.
        """
        from torchgraft.learning.inverse import inverted

        return inverted(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversion to a JSON file, whole or not at all; `Learned.read` reads it back.

        Raises:
            WriteError: the file can't be written; what stood there is intact.
        """
        write_bytes(path, json.dumps(to_plain(self), separators=(",", ":"), allow_nan=False).encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str], renderers: Renderers | None = None) -> Self:
        """Return the conversion that `save` wrote. The file is data: nothing in it is run.

        Raises:
            CheckpointError: there is no such file, or it is too large.
            UsageError: the file is no learned conversion, or a broken one.
        """
        shown = printable(os.fsdecode(path))
        data = read_json(path, LARGEST, "learned conversion")
        found = from_plain(data, shown)
        return cls(
            sources=found.sources,
            outputs=found.outputs,
            computed=found.computed,
            skipped=found.skipped,
            renderers=renderers,
        )


def learn(convert: Convert, specs: Mapping[str, TensorSpec], renderers: Renderers | None = None) -> Learned:
    """Return what `convert` does to a state dict with these specs; see `torchgraft.learn`.

    Raises:
        UsageError: it fails on probe tensors, or gives no state dict, or another form each time.
    """
    numbering = Numbering(specs)
    traced, skipped = trace(convert, numbering)
    found = [output_of(traced.pop(name), numbering) for name in list(traced)]
    outputs, computed = proved(found, convert, specs)
    return Learned(
        sources=dict(specs), outputs=tuple(outputs), computed=tuple(computed), skipped=skipped, renderers=renderers
    )
