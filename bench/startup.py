"""Seconds of whole processes: importing torchgraft, --help, and inspecting a small file; medians of seven.

python bench/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 7


def median(call: list[str]) -> float:
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(call, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pt"
        torch.save({"w": torch.zeros(3)}, path)
        python = sys.executable
        for label, call in (
            ("python -c pass", [python, "-c", "pass"]),
            ("import torchgraft", [python, "-c", "import torchgraft"]),
            ("torchgraft --help", [python, "-m", "torchgraft", "--help"]),
            ("torchgraft inspect", [python, "-m", "torchgraft", "inspect", str(path)]),
            ("import torch", [python, "-c", "import torch"]),
        ):
            print(f"{label:20s} {median(call):.3f} s", flush=True)


if __name__ == "__main__":
    main()
