"""Where lists of layers are in names, by the paths that the caller gives: `blocks` of `blocks.0`, `layer{i}` of `layer1`, and
`{i}` of `0`, the model's own list, as an `nn.Sequential` has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torchgraft.core.names import ends
from torchgraft.matching.tables.dialect import WRAPPERS

TOP = "{i}"  # the list of the model's own layers, around which there may be wrappers
NO_LAYER = -1  # what `layers` has for numbers that no layer of the model has

_STEM = re.compile(r"(?<=[^.])\{\w\}\.?$")
_TOP_LAYER = re.compile(rf"(?P<head>(?:(?:{'|'.join(WRAPPERS)})\.)*)(?P<n>\d+)(?P<rest>\..*)")
_OUTER_LIST = re.compile(r"(?P<path>[^0-9.][^.]*(?:\.[^0-9.][^.]*)*?)\.\d+\.")


def is_of_stems(path: str) -> bool:
    """Return whether the members of a list have their numbers in their names, as `layer{i}` says."""
    return bool(_STEM.search(path))


def list_at(path: str, name: str) -> re.Match[str] | None:
    """Return the parts of a name in the layer list at `path`, whatever stands before it; None for all other names."""
    if path == TOP:
        return _TOP_LAYER.match(name)
    return re.match(rf"(?P<head>(?:.*\.)?{re.escape(before_numbers(path))})(?P<n>\d+)(?P<rest>\..*)", name)


def before_numbers(path: str) -> str:
    """Return what stands before the numbers of the members of the layer list at `path`."""
    if path == TOP:
        return ""
    return _STEM.sub("", path) if is_of_stems(path) else f"{path.rstrip('.')}."


def path_in_file(path: str, shown: Iterable[str], names: Iterable[str]) -> str:
    """Return the path of a layer list as the file has it; the path as it is where that can't be told.

    Where no end of it leads to one list, that is the only one that isn't within another.
    """
    if numbers_in(path, shown) or not numbers_in(path, names):
        return path
    for end in ends(path):
        heads = {found["head"] for name in shown if (found := list_at(end, name))}
        if heads:
            return end if len(heads) == 1 else path
    outer = {found["path"] for name in shown if (found := _OUTER_LIST.match(name))}
    outer |= {TOP} if numbers_in(TOP, shown) else set()
    return outer.pop() if len(outer) == 1 else path


def numbers_in(path: str, names: Iterable[str]) -> set[int]:
    """Return the numbers of the layers in the list at `path`."""
    return {int(found["n"]) for name in names if (found := list_at(path, name))}


def lists_in(names: Iterable[str]) -> Iterator[str]:
    """Yield the paths of the outermost lists of layers that names lie in, as `layers` takes them: `layer1` of `layer1.0`, too."""
    for name in names:
        parts = name.split(".")
        at = next((at for at, part in enumerate(parts[:-1]) if part[-1:].isdigit()), len(parts))
        if at < len(parts) and (bare := parts[at].rstrip("0123456789")):
            yield ".".join((*parts[:at], f"{bare}{{i}}"))
            at += 1
        if at < len(parts) - 1 and parts[at].isdigit():
            yield ".".join(parts[:at]) or TOP
