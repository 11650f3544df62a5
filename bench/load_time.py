"""Wall time, processor time and peak memory of loading, beside others and beside the limit of the machine, in one run.

    python bench/load_time.py [--runs 7] [--models resnet50 vit_l decoder keys] [--decoder-mib 512] [--json FILE] [--picture FILE.svg]

What is loaded into what is in load_ways.py, the ways of others are in peers.py; those that aren't installed are left out.
`decoder` is a language model of the size that is asked for, in bfloat16, in shards, `keys` a hundred thousand small tensors.
On an idle machine of two cores it takes ten minutes, and 5 GB of disk and of memory.

Each sample is a forked process that has everything imported: model built, memory touched, then one load, timed alone. The
ways take turns, each other time in reverse, so that whatever else the machine does meets all of them. Files are written
once to a temporary folder and read from the page cache. `limit` is a loop that does nothing but read the same bytes, by
two threads, into memory that was touched before or, where the model has none, into fresh memory with huge pages. The
machine is `busy` with a loop for each core that does nothing else.
`peak_MiB` is the growth of the peak resident set over that before the load (mapped file pages count). `build` begins
without a model: constructing it counts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

# Of a hundred thousand tensors a sample takes up to ten seconds, and differs little from the next.
MANY_RUNS = 3

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import decoder
from load_ways import CASES, MODELS, PREPARED, WAYS, ours, write
from peers import CONVERTED, torch_mapped
from picture import bars


def warm_up(way, folder):
    """Import everything and run once on something small, so that a sample times the load and nothing else."""
    from safetensors.torch import load_file, save_file

    small = nn.Linear(4, 4)
    paths = [folder / f"small{os.getpid()}.{kind}" for kind in ("pt", "safetensors")]
    torch.save(small.state_dict(), paths[0])
    save_file(small.state_dict(), paths[1])
    torch_mapped(small, paths[0])
    small.load_state_dict(load_file(paths[1]))
    for path in paths:
        if "torchgraft" in way:
            import torchgraft

            ours(small, path)
            torchgraft.build(lambda: nn.Linear(4, 4), path)
            torchgraft.load(nn.Sequential(small, nn.Linear(4, 2)), nn.Sequential(small).state_dict())  # not alike
            torchgraft.plan(
                nn.Sequential(small, nn.Linear(4, 2)), {"a.weight": small.weight, "b.weight": small.weight[:2]}
            )
        path.unlink()


def imported():
    """Return the modules that loading imports."""
    import torchgraft

    with tempfile.TemporaryDirectory() as folder:
        warm_up("torchgraft", Path(folder))
        small, shards = nn.Linear(4, 4), Path(folder, "shards")
        shards.mkdir()
        torchgraft.save(shards / "model.safetensors", small.state_dict(), shard_size=32)
        ours(small, shards)
    return list(sys.modules)


def import_all(models):
    """Import in this process what every sample needs, so that each need not; nothing is computed here."""
    wanted = [*forked(imported), "safetensors.torch", "torch.distributed.checkpoint", "accelerate"]
    if "decoder" in models and CONVERTED["joined"]:
        wanted += [f"transformers.models.{name}.modeling_{name}" for name in ("llama", "phi3")]
    for module in wanted:
        with suppress(ImportError):
            importlib.import_module(module)


@contextmanager
def busy_cores(count):
    """Keep `count` cores busy meanwhile."""
    loops = []
    for _ in range(count):
        loops.append(os.fork())
        if not loops[-1]:
            while True:
                pass
    time.sleep(0.2 if loops else 0)
    try:
        yield
    finally:
        for pid in loops:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


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
    warnings.simplefilter("ignore")
    warm_up(way, folder)
    path = folder / f"{name}.{case[0]}"
    given = PREPARED[case[1] if way != "limit" else "limit"](name, path, case)
    run = WAYS[case][way]
    with busy_cores((os.cpu_count() or 1) if case[1] == "busy" else 0):
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
    for number in range(min(runs, MANY_RUNS) if name == "keys" else runs):
        for case, way in reversed(todo) if number % 2 else todo:
            samples[case, way].append(forked(sample, name, case, way, folder))
    return [
        {"model": name, **row(size, pair, samples[pair], samples.get((pair[0], "limit")), ("cpu_s", "peak_MiB"))}
        for pair in todo
    ]


def row(size, pair, mine, base, names):
    """Return the figures of one way, of samples of wall seconds and of what `names` call, seconds (`_s`) or MiB.

    `to_limit` is the median of the ratios within one round, where there is a limit.
    """
    case, way = pair
    ratios = [s[0] / b[0] for s, b in zip(mine, base, strict=True)] if base else []
    return {
        "MiB": round(size),
        "file": case[0],
        "into": case[1],
        "way": way,
        "n": len(mine),
        "wall_s": round(statistics.median(s[0] for s in mine), 4),
        "least_s": round(min(s[0] for s in mine), 4),
        "to_limit": round(statistics.median(ratios), 2) if ratios else None,
        **{
            name: round(statistics.median(s[at] for s in mine), 4 if name.endswith("_s") else 1)
            for at, name in enumerate(names, 1)
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--decoder-mib", type=int, default=512)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    decoder.MIB = asked.decoder_mib
    import_all(asked.models)
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
