"""What a checkpoint holds, without a model: its networks and the facts beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot

from torchgraft.core.dtypes import DType
from torchgraft.core.shown import Renderers, Shown
from torchgraft.core.specs import Network, Source, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Figures of one tensor of real numbers; those but `odd` are of its finite elements, 0.0 where there are none.

    `rms` is the root of the mean square, `kurtosis` the fourth standardised moment (3 for a normal distribution, 1.8 for
    a uniform one). `odd` elements are NaN or infinite. `below` counts what is zero or negative, in tensors of one
    dimension. Of the slices along the first dimension of a tensor with two or
    more, `zero_rows` are zero throughout, and `even_rows` one value throughout (zero included).
    """

    numel: int
    odd: int = 0
    least: float = 0.0
    greatest: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    kurtosis: float = 0.0
    below: int = 0
    rows: int = 0
    zero_rows: int = 0
    even_rows: int = 0

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return hypot(self.mean, self.std)

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.least), abs(self.greatest))

    @property
    def constant(self) -> bool:
        """Whether all elements are one finite number."""
        return self.numel > 0 and not self.odd and self.least == self.greatest


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Something strange about values: which rule found it, in words with the figures, and the tensors concerned."""

    rule: str
    text: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Figures of all tensors of real numbers that were read, by name, and what is strange about them."""

    tensors: Mapping[str, Moments] = field(default_factory=dict)
    suspicions: tuple[Suspicion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSummary:
    """One state dict in figures. `dtypes` counts tensors; a tensor that lies twice in the file counts its bytes once."""

    path: str
    role: str
    tensors: int
    elements: int
    nbytes: int
    dtypes: Mapping[DType, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestCheck:
    """What came of reading every tensor and comparing it with the SHA-256 that the file states.

    `compared` tensors have a digest; `differing` are those of them whose values are others, `missing` names that have
    a digest and no tensor, `without` tensors that have none (they were read, and nothing more can be said of them).
    """

    compared: int
    differing: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the file."""
        return not self.differing and not self.missing


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Inspection(Shown):
    """All that is known of a checkpoint before any value is read.

    `chosen` is the path of the network that load() would take, `specs` its tensors in file order. `rivals` are paths
    that fit as well: load() would ask for prefer=. `held` is how many tensors there are in all, and their bytes.
    `verification` and `statistics` are there where values were to be read.
    """

    origin: str
    format: str
    networks: tuple[NetworkSummary, ...]
    held: tuple[int, int]
    chosen: str
    specs: tuple[TensorSpec, ...]
    rivals: tuple[str, ...] = ()
    note: str = ""
    shared: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    verification: DigestCheck | None = None
    statistics: Statistics | None = None
    renderers: Renderers | None = field(default=None, repr=False, compare=False)


def summarise(source: Source, chosen: Network, rivals: tuple[str, ...] = (), note: str = "") -> Inspection:
    """Return what `source` holds; `chosen` is the network to list."""
    return Inspection(
        origin=source.origin,
        format=source.format,
        networks=tuple(_summary(n) for n in source.networks),
        held=_held(source.networks),
        chosen=chosen.path,
        specs=tuple(chosen.specs.values()),
        rivals=rivals,
        note=note,
        shared=dict(chosen.shared or {}),
        metadata=dict(source.metadata),
        warnings=tuple(source.warnings),
    )


def _summary(network: Network) -> NetworkSummary:
    shared = network.shared or {}
    once = [spec for name, spec in network.specs.items() if name not in shared]
    return NetworkSummary(
        path=network.path,
        role=network.role,
        tensors=len(network.specs),
        elements=sum(spec.numel for spec in once),
        nbytes=sum(spec.nbytes for spec in once),
        dtypes=dict(Counter(spec.dtype for spec in network.specs.values()).most_common()),
    )


def _held(networks: Sequence[Network]) -> tuple[int, int]:
    """Return the number of tensors and their bytes; what is a network and a part of another one counts once."""
    sizes: dict[str, int] = {}
    for network in networks:
        start = f"{network.path.replace('/', '.')}." if network.path else ""
        shared = network.shared or {}
        for name, spec in network.specs.items():
            sizes[start + name] = 0 if name in shared else spec.nbytes
    return len(sizes), sum(sizes.values())
