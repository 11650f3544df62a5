"""How time grows with the number of tensors: many small ones loaded end to end, with a prefix to strip, beside the usual
ways; and a plan between names that differ throughout.

    python bench/growth.py [--runs 3] [--thousands 1 3 10 30 100] [--json FILE] [--picture FILE.svg]

Each sample is a forked process; the ways take turns. Seconds are the processor's, so that a busy machine doesn't count.
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
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import plan_time
from load_time import forked, resident
from many_keys import PARTS, model, usual, write
from picture import curves

import torchgraft

WAYS = {
    "safetensors: load_file, load_state_dict": lambda made, stem: usual(made, load_file(f"{stem}.safetensors")),
    "safetensors: torchgraft": lambda made, stem: torchgraft.load(made, f"{stem}.safetensors"),
    "torch zip: torch.load, load_state_dict": lambda made, stem: usual(made, torch.load(f"{stem}.pt", mmap=True)),
    "torch zip: torchgraft": lambda made, stem: torchgraft.load(made, f"{stem}.pt"),
}
PLANNED = "torchgraft plans, other names throughout"


def sample(way, count, folder):
    """Return (processor seconds, growth of the peak in MiB) of one way."""
    if way == PLANNED:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmHWM")
        return plan_time.measure("renamed", count // 1000)["seconds"], (resident("VmHWM") - before) / 1024
    run = WAYS[way]
    run(model(10), f"{folder}/10")  # imports everything
    made = model(count)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident("VmHWM"), time.process_time()
    run(made, f"{folder}/{count}")
    return time.process_time() - start, (resident("VmHWM") - before) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--thousands", type=int, nargs="+", default=[1, 3, 10, 30, 100])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        forked(write, f"{folder}/{len(PARTS)}", len(PARTS))
        for count in (1000 * number for number in asked.thousands):
            forked(write, f"{folder}/{count}", count)
            taken = {way: [] for way in (*WAYS, PLANNED)}
            for _ in range(asked.runs):
                for way, samples in taken.items():
                    samples.append(forked(sample, way, count, folder))
            for way, samples in taken.items():
                seconds, peak = (statistics.median(figures) for figures in zip(*samples, strict=True))
                rows.append({"way": way, "tensors": count, "cpu_s": round(seconds, 4), "peak_MiB": round(peak, 1)})
                print(" | ".join(map(str, rows[-1].values())), flush=True)
    facts = {"torch": torch.__version__, "cores": os.cpu_count(), "runs": asked.runs, "rows": rows}
    if asked.json:
        asked.json.write_text(json.dumps(facts, indent=1) + "\n")
    if asked.picture:
        asked.picture.write_text(curves(rows))


if __name__ == "__main__":
    main()
