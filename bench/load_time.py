"""Wall time, processor time and peak memory of loading, beside others and beside the limit of the machine, in one run.

    python bench/load_time.py [--runs 7] [--models resnet50 vit_l] [--json FILE] [--picture FILE.svg]

Each sample is a forked process: model built, memory touched, then one load, timed alone. The ways take turns, so that
whatever else the machine does meets all of them. Files are written once to a temporary folder and read from the page
cache. `limit` is a loop that does nothing but read the file into memory that was touched before, by two threads.
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
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

from picture import bars  # noqa: E402

MODELS = {"resnet50": torchvision.models.resnet50, "vit_l": torchvision.models.vit_l_16}
PIECE = 16 << 20


def touched(name):
    """Return a model of the given size with memory of its own, touched; initialising it would take far longer."""
    with torch.device("meta"):
        model = MODELS[name]()
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    return model


def write(name, folder):
    """Write the model's files with random values; return its size in MiB."""
    import safetensors.torch

    state = {k: torch.randn(v.shape).to(v.dtype) for k, v in touched(name).state_dict().items()}
    torch.save(state, folder / f"{name}.pt")
    safetensors.torch.save_file(state, folder / f"{name}.safetensors")
    return sum(t.numel() * t.element_size() for t in state.values()) / 2**20


def buffer_for(_, path):
    """Return touched memory as large as the file."""
    return np.ones(path.stat().st_size, np.uint8)


def limit(buffer, path):
    """Read the file into `buffer` by two threads."""
    handle, view = os.open(path, os.O_RDONLY), memoryview(buffer)
    middle = len(view) // 2

    def read(at, stop):
        while at < stop:
            at += os.preadv(handle, [view[at : min(stop, at + PIECE)]], at)

    helper = threading.Thread(target=read, args=(0, middle))
    helper.start()
    read(middle, len(view))
    helper.join()
    os.close(handle)


def torch_mapped(model, path):
    model.load_state_dict(torch.load(path, mmap=True, weights_only=True))


def torch_plain(model, path):
    model.load_state_dict(torch.load(path, weights_only=True))


def safetensors_file(model, path):
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path))


def ours(model, path):
    import torchgraft

    torchgraft.load(model, path)


def ours_bare(model, path):
    import torchgraft

    torchgraft.load(model, path, undo="none")


def apply_only(model, path):
    """The transaction alone: a plan of equal names, made outside of what is timed."""
    from torchgraft.applying import apply
    from torchgraft.core.plan import Feed, Plan, Step, Why
    from torchgraft.reading import open_checkpoint
    from torchgraft.surveying import survey
    from torchgraft.verifying import compare_values

    target = survey(model)
    source = open_checkpoint(path)
    why = Why("bench", "equal names")
    plan = Plan(steps=tuple(Step(slot=s, feeds=(Feed(s.name),) if s.persistent else (), why=why) for s in target.slots))
    start = time.perf_counter()
    apply(model, target, plan, source, verify=compare_values)
    return time.perf_counter() - start


def construct_and_load(factory, path):
    safetensors_file(factory(), path)


def ours_build(factory, path):
    import torchgraft

    torchgraft.build(factory, path)


def model_for(name, _):
    return touched(name)


def factory_for(name, _):
    return MODELS[name]


# (file, what is filled) -> way -> (what is made ready before the clock runs, what is timed). The first is the limit.
WAYS = {
    ("pt", "model"): {
        "limit": (buffer_for, limit),
        "torch.load(mmap=True) + load_state_dict": (model_for, torch_mapped),
        "torch.load + load_state_dict": (model_for, torch_plain),
        "torchgraft.load": (model_for, ours),
        "torchgraft.load(undo='none')": (model_for, ours_bare),
        "the transaction alone": (model_for, apply_only),
    },
    ("safetensors", "model"): {
        "limit": (buffer_for, limit),
        "load_file + load_state_dict": (model_for, safetensors_file),
        "torchgraft.load": (model_for, ours),
        "torchgraft.load(undo='none')": (model_for, ours_bare),
    },
    ("safetensors", "build"): {
        "limit": (buffer_for, limit),
        "constructor + load_file": (factory_for, construct_and_load),
        "torchgraft.build": (factory_for, ours_build),
    },
}


def warm_up(way, folder):
    """Import everything and run once on something small, so that a sample times the load and nothing else."""
    small = nn.Linear(4, 4)
    path = folder / f"small{os.getpid()}.pt"
    torch.save(small.state_dict(), path)
    torch_mapped(small, path)
    if "torchgraft" in way or "transaction" in way:
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
    prepare, run = WAYS[case][way]
    given = prepare(name, path)
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
    todo = [(case, way) for case, ways in WAYS.items() for way in ways]
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
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            rows += measure(name, asked.runs, Path(folder))
    heads = list(rows[0])
    print(" | ".join(heads))
    for line in rows:
        print(" | ".join(str(line[h]) for h in heads))
    facts = {"torch": torch.__version__, "cores": os.cpu_count(), "load": os.getloadavg(), "rows": rows}
    if asked.json:
        asked.json.write_text(json.dumps(facts, indent=1) + "\n")
    if asked.picture:
        asked.picture.write_text(bars(rows))


if __name__ == "__main__":
    main()
