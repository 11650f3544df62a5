"""Seconds and peak memory of inspecting a file with very many tensors, text included.

python bench/inspect_time.py [--keys 1000000] [--formats safetensors pt] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PARTS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "mlp.gate", "norm1", "norm2", "router")
CHILD = """
import json, re, sys, time
import torchgraft as tg
begin, wall = time.process_time(), time.perf_counter()
found = tg.inspect(sys.argv[1])
opened = time.process_time() - begin
text = str(found)
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10  # ru_maxrss is at least the parent's
print(json.dumps({"tensors": len(found.specs), "processor_s": round(time.process_time() - begin, 2),
                  "of_it_opening_s": round(opened, 2), "wall_s": round(time.perf_counter() - wall, 2), "peak_MiB": peak}))
"""


def make(path: Path, keys: int) -> None:
    """Write a file of `keys` tensors of one number each."""
    from torchgraft.core.dtypes import DType
    from torchgraft.core.specs import TensorSpec
    from torchgraft.writing.content import Content
    from torchgraft.writing.items import Item
    from torchgraft.writing.save import format_of

    names = [f"layers.{n // 10}.{PARTS[n % 10]}.weight" for n in range(keys)]
    value = memoryview(bytes(4))
    if path.suffix == ".safetensors":  # without digests: a million of them would not fit the format's header
        table = {n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)}
        head = json.dumps(table, separators=(",", ":")).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4 * keys))
        return
    items = [Item(TensorSpec(name, (1,), DType.F32), lambda: iter([value])) for name in names]
    Content(items=items, names=names).write(path, format_of(path), lambda _: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", default=["safetensors", "pt"])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for ending in asked.formats:
            path = Path(folder, f"many.{ending}")
            make(path, asked.keys)
            done = subprocess.run([sys.executable, "-c", CHILD, str(path)], check=True, capture_output=True, text=True)
            rows.append({"format": ending, **json.loads(done.stdout)})
            print(rows[-1], flush=True)
            path.unlink()
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
