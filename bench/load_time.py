"""Time and memory of loading a file into a model that exists, beside torch.load(mmap=True) and load_state_dict.

    python bench/load_time.py [--runs 7] [--models resnet50 vit_l] [--json out.json]

Each sample is a forked process: model built, memory touched, then one load, timed alone. The ways take turns, so that
whatever else the machine does meets all of them. Files are written once to a temporary folder and read from the page
cache. `peak_MiB` is the growth of the peak resident set over that before the load (mapped file pages count).
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
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

MODELS = ("resnet50", "vit_l")


def build(name):
    """Return a model of the given size with memory of its own, touched; initialising it would take far longer."""
    with torch.device("meta"):
        model = torchvision.models.resnet50() if name == "resnet50" else torchvision.models.vit_l_16()
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    return model


def write(name, folder):
    """Write the model's files with random values."""
    import safetensors.torch

    state = build(name).state_dict()
    state = {k: torch.randn(v.shape).to(v.dtype) for k, v in state.items()}
    torch.save(state, folder / f"{name}.pt")
    safetensors.torch.save_file(state, folder / f"{name}.safetensors")
    return sum(t.numel() * t.element_size() for t in state.values()) / 2**20


def torch_way(model, path):
    state = torch.load(path, mmap=True, weights_only=True)
    model.load_state_dict(state)


def safetensors_way(model, path):
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path))


def our_way(model, path):
    import torchgraft

    torchgraft.load(model, path)


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


WAYS = {
    "pt": {"torch": torch_way, "ours": our_way, "apply": apply_only},
    "safetensors": {"safetensors": safetensors_way, "ours": our_way, "apply": apply_only},
}
BASE = ("pt", "torch")


def warm_up(way, folder):
    """Import everything and run once on something small, so that a sample times the load and nothing else."""
    small = nn.Linear(4, 4)
    path = folder / f"small{os.getpid()}.pt"
    torch.save(small.state_dict(), path)
    torch_way(small, path)
    if way in ("ours", "apply"):
        our_way(small, path)
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


def sample(name, way, kind, folder):
    """Return (seconds, peak growth in MiB) of one load."""
    warm_up(way, folder)
    model = build(name)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmHWM")
    start = time.perf_counter()
    try:
        own = WAYS[kind][way](model, folder / f"{name}.{kind}")
    except Exception as error:  # noqa: BLE001
        print(f"{kind} {way}: {error!r:.600}", file=sys.stderr)
        return float("nan"), float("nan")
    seconds = own if own is not None else time.perf_counter() - start
    return seconds, (resident("VmHWM") - before) / 1024


def resident(field):
    """Return a field of the process's status in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def measure(name, runs, folder):
    """Return one row per way of loading one model."""
    size = forked(write, name, folder)
    todo = [(kind, way) for kind, ways in WAYS.items() for way in ways]
    samples = {pair: [] for pair in todo}
    for number in range(runs + 1):
        for kind, way in todo if number % 2 else reversed(todo):
            result = forked(sample, name, way, kind, folder)
            if number:
                samples[kind, way].append(result)
    return [row(name, size, pair, samples[pair], samples[BASE]) for pair in todo]


def row(name, size, pair, mine, base):
    """Return the figures of one way; ratios are medians of the ratios within one round."""
    seconds = [s[0] for s in mine]
    return {
        "model": name,
        "MiB": round(size),
        "file": pair[0],
        "way": pair[1],
        "n": len(mine),
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "ratio": round(statistics.median(s[0] / b[0] for s, b in zip(mine, base, strict=True)), 2),
        "peak_MiB": round(statistics.median(s[1] for s in mine), 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            rows += measure(name, asked.runs, Path(folder))
    heads = list(rows[0])
    print(" | ".join(heads))
    for line in rows:
        print(" | ".join(str(line[h]) for h in heads))
    if asked.json:
        asked.json.write_text(json.dumps({"torch": torch.__version__, "cores": os.cpu_count(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
