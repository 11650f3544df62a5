"""Running a learned conversion, on values or on specs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.listing import listed
from torchgraft.core.results.conversion import Conversion, Output
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops import computed, shaped


def value_of(output: Output, read: Callable[[str], Tensor]) -> Tensor:
    """Return the tensor that `output` describes; `read` gives source tensors. May share memory with what was read."""
    return computed(output, lambda feed: read(feed.key))[0]


def spec_of(output: Output, specs: Mapping[str, TensorSpec]) -> TensorSpec:
    """Return the spec of what `output` makes of a source with these specs, under the output's name.

    Raises:
        UsageError: the source doesn't fit.
    """
    (found,) = shaped(output, lambda feed: specs[feed.key])
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
                f"{printable(name)} is {list(given.shape)}, was {list(spec.shape)} when the conversion was learned",
            )


def expect_fit(conversion: Conversion, specs: Mapping[str, TensorSpec], origin: str) -> None:
    """Refuse a source that the conversion was not learned for.

    Raises:
        UsageError: names or shapes differ, with up to four of them.
    """
    wrong = list(misfits(conversion, specs))
    if wrong:
        said = "; ".join(text for _, text in wrong[:4])
        more = f" and {len(wrong) - 4} more ({listed([name for name, _ in wrong[4:]], 3)})" if len(wrong) > 4 else ""
        raise UsageError(
            f"{origin} is not what this conversion was learned for: {said}{more}; learn it again from this one"
        )
