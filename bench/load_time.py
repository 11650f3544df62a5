"""Wall time, processor time and peak memory of loading, beside others and beside the limit of the machine, in one run.

    python bench/load_time.py [--runs 7] [--models resnet50 vit_l decoder] [--decoder-mib 1024] [--json FILE] [--picture FILE.svg]

What is loaded into what, and the ways of doing so, are in load_ways.py. `decoder` is a language model of the size that
is asked for, in bfloat16, in shards.

Each sample is a forked process: model built, memory touched, then one load, timed alone. The ways take turns, so that
whatever else the machine does meets all of them. Files are written once to a temporary folder and read from the page
cache. `limit` is a loop that does nothing but read the same bytes, by two threads, into memory that was touched before
or, where the model has none, into fresh memory with huge pages.
`peak_MiB` is the growth of the peak resident set over that before the load (mapped file pages count). `build` begins
without a model: constructing it counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import decoder
from load_ways import CASES, MODELS, PREPARED, WAYS, ours, torch_mapped, write
from picture import bars


def warm_up(way, folder):
    """Import everything and run once on something small, so that a sample times the load and nothing else."""
    small = nn.Linear(4, 4)
    path = folder / f"small{os.getpid()}.pt"
    torch.save(small.state_dict(), path)
    torch_mapped(small, path)
    if "torchgraft" in way:
        import torchgraft

        ours(small, path)
        torchgraft.build(lambda: nn.Linear(4, 4), path)
    path.unlink()


def forked(function, *arguments):
    """Return the result of `function` in a forked process. The parent never computes, so forking it is safe."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid:
        os.close(send)
        with os.fdopen(receive) as pipe:
            data = pipe.read()
        os.waitpid(pid, 0)
        return json.loads(data)
    status = 1
    try:
        data = json.dumps(function(*arguments))
        with os.fdopen(send, "w") as pipe:
            pipe.write(data)
        status = 0
    finally:
        os._exit(status)


def sample(name, case, way, folder):
    """Return (wall seconds, processor seconds, peak growth in MiB) of one load."""
    warm_up(way, folder)
    path = folder / f"{name}.{case[0]}"
    given = PREPARED[case[1] if way != "limit" else "limit"](name, path, case)
    run = WAYS[case][way]
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmHWM")
    cpu, start = time.process_time(), time.perf_counter()
    try:
        own = run(given, path)
    except Exception as error:  # noqa: BLE001
        print(f"{case} {way}: {error!r:.600}", file=sys.stderr)
        return float("nan"), float("nan"), float("nan")
    wall = time.perf_counter() - start
    return own if own is not None else wall, time.process_time() - cpu, (resident("VmHWM") - before) / 1024


def resident(field):
    """Return a field of the process's status in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def measure(name, runs, folder):
    """Return one row per way of loading one model."""
    size = forked(write, name, folder)
    todo = [(case, way) for case in CASES[name] for way in WAYS[case]]
    samples = {pair: [] for pair in todo}
    for number in range(runs + 1):
        for case, way in todo if number % 2 else reversed(todo):
            result = forked(sample, name, case, way, folder)
            if number:
                samples[case, way].append(result)
    return [row(name, size, pair, samples[pair], samples[pair[0], "limit"]) for pair in todo]


def row(name, size, pair, mine, base):
    """Return the figures of one way; `to_limit` is the median of the ratios within one round."""
    case, way = pair
    return {
        "model": name,
        "MiB": round(size),
        "file": case[0],
        "into": case[1],
        "way": way,
        "n": len(mine),
        "wall_s": round(statistics.median(s[0] for s in mine), 4),
        "least_s": round(min(s[0] for s in mine), 4),
        "cpu_s": round(statistics.median(s[1] for s in mine), 4),
        "to_limit": round(statistics.median(s[0] / b[0] for s, b in zip(mine, base, strict=True)), 2),
        "peak_MiB": round(statistics.median(s[2] for s in mine), 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--decoder-mib", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    decoder.MIB = asked.decoder_mib
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            found = measure(name, asked.runs, Path(folder))
            print(" | ".join(found[0]))
            print("\n".join(" | ".join(map(str, line.values())) for line in found), flush=True)
            rows += found
            keep(rows, asked)  # after each model, so that a run that is broken off has something


def keep(rows, asked):
    """Write what was measured as JSON and as a picture."""
    facts = {"torch": torch.__version__, "cores": os.cpu_count(), "load": os.getloadavg(), "rows": rows}
    if asked.json:
        asked.json.write_text(json.dumps(facts, indent=1) + "\n")
    if asked.picture:
        asked.picture.write_text(bars(rows))


if __name__ == "__main__":
    main()
