"""What must hold of every command on any file whatever: an answer that can be shown and printed as JSON, or an error of ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness import Fault, fit

import torchgraft as tg
from torchgraft.core.errors import MAX_MESSAGE, TorchgraftError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONGEST = 20_000
MOST_BYTES = 8 << 20


def use(path: Path, folder: Path) -> int:
    """Inspect, compare, plan and convert the file at `path`, and what that gave; return how many of these gave an answer.

    Raises:
        Fault: another exception came out, what was said is not fit to be shown, or what was written differs.
    """
    answers = 0
    for act in (_inspected, _compared, _planned, _converted):
        try:
            act(path, folder)
            answers += 1
        except TorchgraftError as error:
            _fit_lines(str(error))
        except Fault:
            raise
        except Exception as error:
            raise Fault(f"{act.__name__}: {type(error).__name__}: {str(error)[:200]}") from error
    return answers


def _inspected(path: Path, folder: Path) -> None:
    del folder
    found = tg.inspect(path, verify=True, statistics=_small(path))
    _shown(found)


def _compared(path: Path, folder: Path) -> None:
    del folder
    found = tg.diff(path, path, values=_small(path))
    _shown(found)
    if not found.equal:
        raise Fault("a file differs from itself")


def _planned(path: Path, folder: Path) -> None:
    del folder
    made = tg.plan(path, path)
    _shown(made)
    page = made.to_html()
    if any(not c.isprintable() and c != "\n" for c in page):
        raise Fault("a page with control characters")


def _converted(path: Path, folder: Path) -> None:
    if not _small(path):
        return
    for ending in (".safetensors", ".pt"):
        made = tg.convert(path, folder / f"out{ending}")
        _fit_lines(str(made))
        with tg.open_checkpoint(path) as old, tg.open_checkpoint(made.path) as new:
            before, after = _bytes(old, made.network), _bytes(new, new.networks[-1].path)
        after = {name: after[made.shared.get(name, name)] for name in {*after, *made.shared}}
        if before.items() - after.items():
            raise Fault(f"converted to {ending}, {min(before.items() - after.items(), key=repr)!r:.200} differs")
        if after.keys() - before.keys():
            raise Fault(f"converted to {ending}, {min(after.keys() - before.keys())!r:.80} is there that was not")


def _bytes(source: Any, path: str) -> dict[str, tuple[Any, bytes]]:
    """Return what each tensor of a network is, and its bytes."""
    out = {}
    for network in source.networks:
        if network.path == path:
            for name, spec in network.specs.items():
                raw = bytearray(spec.nbytes)
                source.read_into(path, name, memoryview(raw))
                out[name] = ((spec.shape, spec.dtype), bytes(raw))
    return out


def _small(path: Path) -> bool:
    with tg.open_checkpoint(path) as source:
        return sum(spec.nbytes for n in source.networks for spec in n.specs.values()) < MOST_BYTES


def _shown(result: Any) -> None:
    _fit_lines(str(result))
    made: Callable[..., str] = json.dumps
    made(result.to_dict(), allow_nan=False)


def _fit_lines(text: str) -> None:
    for line in text.split("\n"):
        if len(line) > LONGEST:
            raise Fault(f"a line of {len(line)} characters")
        fit(line[:MAX_MESSAGE])
