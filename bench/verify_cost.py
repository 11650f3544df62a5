"""What verification costs: time and peak memory beside two plain forward passes of the same models.

    python bench/verify_cost.py [--size 224] [--batch 2] [--rounds 5] [--json bench/results/verify_cost.json]

Times are the processor's, taken in turn, so that what else the machine does counts little; the ratio is that of the
medians. Peak memory is that of fresh processes from when the models are built and planned on, which is where Linux lets its
mark be set back; elsewhere it is that of the whole process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

MARK = Path("/proc/self/clear_refs")  # 5 sets the process's highest mark back to what it uses now


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return torchvision's ResNet-50 as the source, and timm's, loaded from it."""
    import timm
    import torchvision

    torch.manual_seed(0)
    source = torchvision.models.resnet50().eval()
    target = timm.create_model("resnet50").eval()
    target.load_state_dict(source.state_dict())
    return source, target


def plain(source: torch.nn.Module, target: torch.nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        source(images)
        target(images)


def verified(source: torch.nn.Module, target: torch.nn.Module, images: torch.Tensor, plan: object) -> None:
    import torchgraft as tg

    assert tg.verify(target, source, images, plan=plan).passed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", choices=["build", "plain", "verify"])
    given = parser.parse_args()
    if given.peak:
        print(_peak(given.peak, given.batch, given.size))
        return
    import torchgraft as tg

    source, target = models()
    plan = tg.plan(target, source)
    images = torch.randn(given.batch, 3, given.size, given.size)
    times: dict[str, list[float]] = {"plain": [], "verify": []}
    for _ in range(given.rounds + 1):
        for name, run in (("plain", lambda: plain(source, target, images)),
                          ("verify", lambda: verified(source, target, images, plan))):  # fmt: skip
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    middle = {name: median(found[1:]) for name, found in times.items()}
    peaks = {name: _in_fresh_process(name, given) for name in ("build", "plain", "verify")}
    found = json.dumps({
        "torch": torch.__version__, "cores": os.cpu_count(), "load": os.getloadavg(), "model": "resnet50",
        "batch": given.batch, "size": given.size, "rounds": given.rounds, "seconds": middle, "time_ratio": middle["verify"] / middle["plain"], "peak_bytes": peaks,
        "peak_ratio": peaks["verify"] / peaks["plain"],
        "activations": {name: peaks[name] - peaks["build"] for name in ("plain", "verify")},
    }, indent=1)  # fmt: skip
    print(found)
    if given.json:
        given.json.write_text(found + "\n")


def _in_fresh_process(what: str, given: argparse.Namespace) -> int:
    call = [sys.executable, __file__, "--peak", what, "--batch", str(given.batch), "--size", str(given.size)]
    return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def _peak(what: str, batch: int, size: int) -> int:
    import torchgraft as tg

    source, target = models()
    plan = tg.plan(target, source)
    images = torch.randn(batch, 3, size, size)
    tg.verify(target, source, torch.randn(1, 3, 32, 32), plan=plan)  # imports and caches of kernels count for nobody
    gc.collect()
    if MARK.exists():
        MARK.write_text("5")
    if what == "plain":
        plain(source, target, images)
    elif what == "verify":
        verified(source, target, images, plan)
    if MARK.exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
