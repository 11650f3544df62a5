"""What must hold of any file whatever: it is read, or refused by an error of ours that is fit to be shown."""

from __future__ import annotations

import resource
import signal
import sys
import time
from pathlib import Path

from torchgraft.core.errors import MAX_MESSAGE, CheckpointError
from torchgraft.reading import open_checkpoint

READ_AT_MOST = 4 << 20
SLOW = 5.0
MEMORY = 2 << 30


class Fault(Exception):  # noqa: N818  it is a finding
    """What a file made the reader do that it must not."""


def write(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of one input; those of the input before are replaced."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def attempt(path: Path) -> dict[tuple[str, str], bytes] | CheckpointError:
    """Return the bytes of each tensor that is not too large, or the refusal.

    Raises:
        Fault: another exception came out, it took too long, or the message is not fit to be shown.
    """
    start = time.process_time()  # what else the machine does is no fault of the reader
    out: dict[tuple[str, str], bytes] | CheckpointError
    try:
        out = _read(path)
    except CheckpointError as error:
        fit(str(error))
        out = error
    except RecursionError as error:
        raise Fault("RecursionError") from error
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {str(error)[:200]}") from error
    if time.process_time() - start > SLOW:
        raise Fault(f"took {time.process_time() - start:.1f} s")
    return out


def fit(message: str) -> None:
    """Check a message: short, without control characters, and without advice that would be unsafe to follow."""
    if len(message) > MAX_MESSAGE:
        raise Fault(f"a message of {len(message)} characters")
    if not message.isprintable():
        raise Fault(f"a message with control characters: {message!r}")
    if "weights_only" in message.lower() or "allow_pickle" in message.lower():
        raise Fault(f"a message that advises to read unsafely: {message}")


def _read(path: Path) -> dict[tuple[str, str], bytes]:
    out: dict[tuple[str, str], bytes] = {}
    with open_checkpoint(path) as source:
        for warning in source.warnings:
            fit(warning)
        left = READ_AT_MOST
        for network in source.networks:
            for key, spec in network.specs.items():
                left -= spec.nbytes
                if left < 0:
                    return out
                buffer = bytearray(spec.nbytes)
                source.read_into(network.path, key, memoryview(buffer))
                out[network.path, key] = bytes(buffer)
    return out


def bounded(seconds: int = 20) -> None:
    """Bound this process: memory beyond what it has, and time for what follows; `signal.alarm(0)` ends the bound."""
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    signal.alarm(seconds)
