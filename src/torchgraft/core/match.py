"""What matching hands to adapting: tensors cut to their finest grain, and claims about who feeds whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Alternative, Certainty, Doubt, Why
from torchgraft.core.specs import Network, Shape


@dataclass(frozen=True, slots=True)
class Part:
    """Which slice of a fused tensor a leaf is: `start:stop` along `dim` of `total`, called `label` (q, k, v, gate ...).

    Where the rows go head by head, `start` and `stop` count after they were put part by part: `groups` times, parts of
    the relative sizes `sizes` follow each other. `contested`: libraries disagree on the order of parts under this name,
    so the usual one is likely and not certain. `guessed`: no name tells the order. `convention`: where it can be read.
    """

    label: str
    dim: int
    start: int
    stop: int
    total: int
    contested: bool = False
    guessed: bool = False
    groups: int = 1
    sizes: tuple[int, ...] = ()
    convention: str = ""

    @property
    def packing(self) -> tuple[int, tuple[int, ...]]:
        """What two fused tensors have in common whose rows are in the same order: groups, and sizes within one."""
        return (self.groups, self.sizes)


EITHER = "either"


@dataclass(frozen=True, slots=True)
class Rotary:
    """How the rows of a query or key pair up for rotary positions: "half", "interleaved" or EITHER, in each of `heads` heads.

    `heads` is 0 where their number isn't known. `convention`: where the layout can be read. `fused`: the tensor has other
    rows beside these.
    """

    layout: str
    heads: int
    convention: str
    fused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One tensor at its finest grain, on either side.

    `name` is the canonical dotted name: a parametrized weight is called `weight`, a part of a fused projection by its
    role. `shape` is that of the value it stands for. `keys` are the tensors it is made of (source keys, or slot
    names), in the order that `form` fixes: plain (one), weight_norm (g, v), spectral_norm (original, u, v), pruned
    (original, mask), fp8 (packed, scale), bnb4 (packed, absmax, code, state). `also` are further names of the same
    tensor (ties). `turned` says whether a matrix is known to be stored [in, out] (True) or [out, in] (False). `rotary`:
    how its rows pair up, for queries and keys whose names tell. `around` are the classes of the module around a fused
    tensor's layer and of the modules inside of it, where they are known. `role` is the last segment of the name and `owner` the
    name without it: kept, because each of a hundred thousand leaves is asked for them some twenty times.
    """

    name: str
    shape: Shape
    dtype: DType
    keys: tuple[str, ...]
    form: str = "plain"
    part: Part | None = None
    also: tuple[str, ...] = ()
    turned: bool | None = None
    rotary: Rotary | None = None
    kind: str = ""
    around: tuple[str, ...] = ()
    order: int = 0
    is_buffer: bool = False
    role: str = field(init=False, repr=False, compare=False)
    owner: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        owner, _, role = self.name.rpartition(".")
        _set_role(self, role)
        _set_owner(self, owner)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


# As object.__setattr__ does, in half the time.
_set_role, _set_owner = (Leaf.__dict__[name].__set__ for name in ("role", "owner"))


# All leaves of the file, and of the model.
Sides = tuple[Sequence[Leaf], Sequence[Leaf]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A claim: `source` feeds `target`, on this ground, this sure; and what else could."""

    target: Leaf
    source: Leaf
    why: Why
    certainty: Certainty = Certainty.CERTAIN
    alternatives: tuple[Alternative, ...] = ()

    def in_doubt(self, doubt: Doubt) -> Match:
        """Return the claim with what speaks against it."""
        return replace(self, certainty=Certainty.DOUBT, why=self.why.in_doubt(doubt))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """All claims, and what is left on both sides.

    `derived` maps source keys that are computed from others to what they come from. `rivals` are parts of the file
    that fit the same slots as well as the `chosen` one, `homes`
    parts of the model that it would fit equally well. `blocked` are slots whose weights the file seems to have in a way that
    can't be read as long as something isn't known: by name, what that is. `notes` are remarks for the report.
    """

    matches: tuple[Match, ...]
    free_targets: tuple[Leaf, ...]
    free_sources: tuple[Leaf, ...]
    derived: Mapping[str, str] = field(default_factory=dict)
    chosen: str = ""
    rivals: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    blocked: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def in_doubt(self, doubts: Mapping[str, Doubt]) -> Matching:
        """Return the matching with what speaks against claims, by the names of their targets, whatever was said before."""
        if not doubts:
            return self
        return replace(
            self,
            matches=tuple([m.in_doubt(doubts[name]) if (name := m.target.name) in doubts else m for m in self.matches]),
        )

    def without(self, gone: Collection[Match]) -> Matching:
        """Return the matching without some of its claims, whose ends are free unless another claim has them."""
        if not gone:
            return self
        ends = {(m.source.name, m.target.name) for m in gone}
        left = tuple([m for m in self.matches if (m.source.name, m.target.name) not in ends])
        used, fed = {m.source.name for m in left}, {m.target.name for m in left}
        sources = {m.source.name: m.source for m in gone if m.source.name not in used}
        targets = {m.target.name: m.target for m in gone if m.target.name not in fed}
        return replace(
            self,
            matches=left,
            free_sources=(*self.free_sources, *sources.values()),
            free_targets=(*self.free_targets, *targets.values()),
        )

    def with_more(self, found: Collection[Match]) -> Matching:
        """Return the matching with pairs of what was free on both sides."""
        if not found:
            return self
        used, fed = {m.source.name for m in found}, {m.target.name for m in found}
        return replace(
            self,
            matches=(*self.matches, *found),
            free_sources=tuple(leaf for leaf in self.free_sources if leaf.name not in used),
            free_targets=tuple(leaf for leaf in self.free_targets if leaf.name not in fed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Both sides alike: `keys` has, for each slot that takes one, the tensor of its name and shape, all on one ground.

    Either the file or the model may have more tensors than those. `unlike` are pairs on the same ground that differ in their rows.
    """

    keys: Mapping[str, str]
    why: Why
    unlike: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Shares:
    """How the shares of one tensor make the whole: replicated, rows, columns or parts (with their relative sizes).

    `stated` is True when the caller said so. `known` is False for a matrix that is taken as replicated for want of a tensor
    of its name in the model. `usual` is True where the name is one for rows that go head by head, and libraries disagree on
    it. `word` is what callers call the parts.
    """

    kind: str
    parts: tuple[int, ...] = ()
    stated: bool = False
    known: bool = True
    usual: bool = False
    word: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Tensor-parallel ranks as one network: their paths in rank order, the network, and how each tensor is shared."""

    members: tuple[str, ...]
    network: Network
    shares: Mapping[str, Shares]
