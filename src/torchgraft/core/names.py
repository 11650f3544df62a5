"""Names of tensors as sequences of segments: whole segments are compared, never substrings."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from torchgraft.core.specs import TensorSpec

_DIGITS = re.compile(r"(\d+)")
_GLOB = frozenset("*?[")
# What training scripts call the part of a state dict that holds averages of the weights.
EMA_SEGMENTS = frozenset(
    {"ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema", "averaged"}
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which layer 10 comes after layer 9."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name) if part)


@lru_cache(maxsize=50_000)
def words(segment: str) -> tuple[str, ...]:
    """Return the lower-case words of one segment: `layerNorm_before2` -> layer, norm, before, 2."""
    out: list[str] = []
    for piece in segment.replace("-", "_").split("_"):
        for word in _CAMEL.split(piece):
            out.extend(part.lower() for part in _DIGITS.split(word) if part)
    return tuple(out)


def template(name: str) -> tuple[str, tuple[int, ...]]:
    """Return `name` with its all-digit segments replaced by `{}`, and those numbers."""
    parts = name.split(".")
    numbers = tuple(int(p) for p in parts if p.isdecimal())
    if not numbers:
        return name, ()
    return ".".join("{}" if p.isdecimal() else p for p in parts), numbers


def covers(pattern: str, name: str) -> bool:
    """Return whether `pattern` means `name`: the name itself, a module above it, or a shell pattern of either."""
    stem = pattern.removesuffix("*").removesuffix(".")
    if name == pattern or name.startswith(f"{stem}."):
        return True
    return not _GLOB.isdisjoint(pattern) and (fnmatchcase(name, pattern) or fnmatchcase(name, f"{stem}.*"))


@lru_cache(maxsize=64)
def covering(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Return whether any of many patterns means a name, as a function; those of whole names and modules are looked up."""
    plain = frozenset(pattern for pattern in patterns if _GLOB.isdisjoint(pattern))
    modules = frozenset(pattern.removesuffix(".") for pattern in plain)
    globs = [pattern for pattern in patterns if pattern not in plain]

    def means(name: str) -> bool:
        found = name in plain or not modules.isdisjoint(above(name))
        return found or any(covers(pattern, name) for pattern in globs)

    return means


def covered(names: Iterable[str]) -> Callable[[str], bool]:
    """Return whether a pattern means any of many names, as a function; names and modules are looked up."""
    known = set(names)
    modules = {path for name in known for path in above(name)}

    def is_meant(pattern: str) -> bool:
        if pattern in known or pattern.removesuffix("*").removesuffix(".") in modules:
            return True
        return not _GLOB.isdisjoint(pattern) and any(covers(pattern, name) for name in known)

    return is_meant


def patterns_of(names: Sequence[str], among: Iterable[str], *, most: int = 6) -> list[str]:
    """Return patterns that cover `names` and nothing else of `among`, wide ones first; [] where it takes more than `most`."""
    wanted = set(names)
    others = [name for name in among if name not in wanted]
    found: list[str] = []
    left = list(names)
    while left and len(found) < most:
        fitting = (wide for wide in _wider(left[0]) if not any(covers(wide, other) for other in others))
        found.append(next(fitting, left[0]))
        left = [name for name in left[1:] if not covers(found[-1], name)]
    return [] if left else found


def _wider(name: str) -> Iterator[str]:
    """Yield the modules that a name is in, the outermost first, each also in all members of its lists; at last the name."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        path = ".".join(parts[:count])
        every = ".".join("*" if part.isdecimal() else part for part in parts[:count])
        # `*.weight` would mean too much
        named = any(not part.isdecimal() for part in parts[: min(count, len(parts) - 1)])
        if every != path and named:
            yield every if count == len(parts) else f"{every}.*"
        yield path


def ends(name: str) -> Iterator[str]:
    """Yield `name`, and what is left of it behind each of its dots, the longest first."""
    while name:
        yield name
        name = name.partition(".")[2]


def shared_start(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many items two sequences have in common from the first on: segments of paths, or letters."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def without_common_end(one: str, other: str) -> tuple[str, str]:
    """Return two paths without the last segments that they share."""
    ours, theirs = one.split("."), other.split(".")
    same = shared_start(ours[::-1], theirs[::-1])
    return ".".join(ours[: len(ours) - same]), ".".join(theirs[: len(theirs) - same])


def without_prefix(pattern: str, keys: Container[str], names: Iterable[str], is_meant: Callable[[str], bool]) -> str:
    """Return a pattern that means none of `names` without the modules that `keys` have around these; else as it is.

    `is_meant` says whether a pattern means any of the names, see `covered`.
    """
    if is_meant(pattern):
        return pattern
    for end in list(ends(pattern))[1:]:
        prefix = pattern[: -len(end)]
        if is_meant(end) and any(f"{prefix}{name}" in keys for name in names if covers(end, name)):
            return end
    return pattern


def parent_of(path: str) -> str:
    """Return the path of the module that a module or a tensor is in, "" for the model itself."""
    return path.rpartition(".")[0]


def above(name: str) -> Iterator[str]:
    """Yield the paths of the modules that a name is in, the innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def around(path: str) -> Iterator[str]:
    """Yield the path of a module, those of the modules that it is in, and "" for the model itself."""
    yield path
    yield from above(path)
    if path:
        yield ""


def wrappers(names: Iterable[str]) -> Iterator[str]:
    """Yield the paths, with their dot, of the modules that all names are in, the outermost first; a list is none."""
    every = set(names)
    first, last = (pick(every, default="").split(".") for pick in (min, max))
    path = ""
    for at, (one, other) in enumerate(zip(first[:-1], last[:-1], strict=False), start=1):
        if one != other or first[at].isdecimal() or last[at].isdecimal():
            return
        path += f"{one}."
        yield path


# Buffers without knowledge of their own: models work them out from their configuration, or count with them. Nobody needs to
# hear that such a tensor stays as the model made it, or that one of the file is left out: under another window, length or
# head size it must be another one. Names as in torch, torchvision, timm, transformers, the code of Swin, BEiT and Llama,
# and averaging utilities.
COUNTERS = ("num_batches_tracked", "num_updates", "n_averaged", "decay")
INDICES = ("position_ids", "token_type_ids", "relative_position_index", "rel_pos_index", "relative_coords_table")
MASKS = ("attn_mask", "causal_mask", "masked_bias")
# Rotary embeddings: frequencies (of these only, other values mean another function), and tables worked out from them.
FREQUENCIES = ("inv_freq", "original_inv_freq")
ROTARY = ("cos_cached", "sin_cached", "cos_cache", "sin_cache", "cos_sin_cache", "freqs_cis", "freqs_cos", "freqs_sin")
OTHERS = ("__extra_state__", "_extra_state", "dummy_tensor")
DERIVED_ROLES = frozenset((*COUNTERS, *INDICES, *MASKS, *FREQUENCIES, *ROTARY, *OTHERS))


def is_derived(spec: TensorSpec) -> bool:
    """Whether nobody needs to hear about the tensor: one of these roles, a causal mask, an empty tensor."""
    role = spec.name.rpartition(".")[2]
    mask = role == "bias" and len(spec.shape) == 4 and spec.shape[:2] == (1, 1) and spec.shape[2] == spec.shape[3]
    return role in DERIVED_ROLES or mask or spec.numel == 0
