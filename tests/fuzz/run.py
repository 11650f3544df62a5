"""Fuzzes every reader: `python tests/fuzz/run.py [--seconds 60] [--seed N] [--jobs 2] [FORMAT ...]`.

Each format is fuzzed in a process of its own, bounded in memory and time, so that a crash or an endless loop is a finding
like any other. What fails is written to tests/fuzz/crashes/ as a folder with the files of the input; there it is a test
from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from beside import beside
from harness import Fault, attempt, bounded, write
from seeds import Format, formats
from uses import use

CRASHES = Path(__file__).parent / "crashes"
EACH = 20
USED = 16  # of so many mutants, one goes through the commands as well, which take longer
# Files that are written anew thousands of times a second belong into memory.
MEMORY_FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
_ROOM = 16 << 20


def once(name: str, form: Format, seed: int, folder: Path) -> str:
    """Run the mutant of a seed; return "read" or "refused".

    Raises:
        Fault: it did what it must not.
    """
    files = form.mutant(random.Random(seed))  # noqa: S311
    write(files, folder)
    target = form.target(files, folder)
    if seed % USED == 0:
        use(target, folder)
    out = attempt(target)
    if isinstance(out, Exception):
        return "refused"
    beside(name, target, out)
    return "read"


def keep(name: str, form: Format, seed: int, why: str) -> Path:
    """Write the input of a finding where tests find it."""
    files = form.mutant(random.Random(seed))  # noqa: S311
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:12]
    place = CRASHES / f"{name}-{digest}"
    write(files, place)
    (place / "WHY").write_text(f"{'folder' if form.opens else next(iter(files))}\n{why}\n", encoding="utf-8")
    return place


def work(name: str, form: Format, seconds: float, first: int, pad: mmap.mmap) -> None:
    """Fuzz one format until the time is over; what was found stands in `pad` at each moment, whatever happens."""
    said: dict[str, Any] = {"runs": 0, "read": 0, "refused": 0, "found": {}, "at": first}
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY_FOLDER) as place:
        end = time.monotonic() + seconds
        bounded(0)
        while time.monotonic() < end:
            said["at"] = first + said["runs"]
            _say(pad, said)
            signal.alarm(EACH)
            try:
                said[once(name, form, said["at"], Path(place))] += 1
            except Fault as fault:
                said["found"].setdefault(str(fault)[:160], said["at"])
            signal.alarm(0)
            said["runs"] += 1
            if said["runs"] % 500 == 0 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 1 << 21:
                said["found"].setdefault("more than 2 GiB of memory in use", said["at"])
                break
    said["at"] = -1
    _say(pad, said)


def _say(pad: mmap.mmap, said: dict[str, Any]) -> None:
    pad.seek(0)
    pad.write(json.dumps(said).encode()[: _ROOM - 1] + b"\0")


def spawn(name: str, form: Format, seconds: float, first: int) -> tuple[int, mmap.mmap]:
    """Start a process for one format."""
    pad = mmap.mmap(-1, _ROOM)
    pid = os.fork()
    if pid:
        return pid, pad
    code = 1
    try:
        work(name, form, seconds, first, pad)
        code = 0
    except BaseException:  # noqa: BLE001  a fault of the fuzzer's own: a forked process may not go on from here
        traceback.print_exc()
    finally:
        os._exit(code)


def heard(pad: mmap.mmap) -> dict[str, Any]:
    pad.seek(0)
    said: dict[str, Any] = json.loads(
        pad.read(_ROOM).split(b"\0", 1)[0] or b'{"runs":0,"read":0,"refused":0,"found":{},"at":0}'
    )
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*")
    parser.add_argument("--seconds", type=float, default=60, help="for each format")
    parser.add_argument("--seed", type=int, default=None, help="of the first mutant; the time of day without it")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    first = asked.seed if asked.seed is not None else time.time_ns() // 1000
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY_FOLDER) as place:
        known = formats(Path(place))
    waiting = [n for n in known if not asked.formats or n in asked.formats]
    running: dict[int, tuple[str, mmap.mmap]] = {}
    bad = 0
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            name = waiting.pop(0)
            pid, pad = spawn(name, known[name], asked.seconds, first)
            running[pid] = (name, pad)
        pid, status = os.wait()
        if pid in running:
            name, pad = running.pop(pid)
            bad += tell(name, known[name], heard(pad), status)
    print(f"first seed {first}; {bad or 'no'} findings" + (f", kept in {CRASHES}" if bad else ""))
    return 1 if bad else 0


def tell(name: str, form: Format, said: dict[str, Any], status: int) -> int:
    """Print what one format's process found, and keep it; return how much that was."""
    found: dict[str, int] = said["found"]
    if status:
        signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        why = (
            "hangs"
            if signal_number == signal.SIGALRM
            else f"the process died (status {status}, signal {signal_number})"
        )
        found[why] = said["at"]
    print(
        f"{name:13s} {said['runs']:8d} mutants: {said['refused']} refused, {said['read']} read, {len(found)} findings",
        flush=True,
    )
    for why, seed in found.items():
        print(f"    seed {seed}: {why}\n    {keep(name, form, seed, why)}", flush=True)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
