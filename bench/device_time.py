"""Wall time and peak memory of loading onto a CUDA device, beside others and beside the limit of the machine, in one run.

    python bench/device_time.py [--runs 7] [--mib 1200] [--json FILE]

The model is a decoder in bfloat16. The ways take turns, each other time in reverse, in one process (waking a device takes
seconds) that has done each of them once before; a sample ends when the device has done all its work. Files are written once
to a temporary folder and read from the page cache. `limit` reads the same bytes by two threads into pinned memory, two
buffers for each, and has them copied to one block of the device's memory meanwhile.
`device_MiB` is the growth of the greatest amount of the device's memory taken over what was taken before the load.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import decoder
from load_time import row
from load_ways import mib, on_meta, random_values
from peers import files_of, have

PIECE = 16 << 20


def limit(_, path):
    """Read the files by two threads, each with two pinned buffers that are under way to the device in turn."""
    size = sum(file.stat().st_size for file in files_of(path))
    there = torch.empty(size, dtype=torch.uint8, device="cuda")
    pieces, at = [], 0
    for file in files_of(path):
        handle, length = os.open(file, os.O_RDONLY), file.stat().st_size
        pieces += [(handle, skip, at + skip, min(PIECE, length - skip)) for skip in range(0, length, PIECE)]
        at += length

    def send(some):
        stream = torch.cuda.Stream()
        buffers = [(torch.empty(PIECE, dtype=torch.uint8, pin_memory=True), torch.cuda.Event()) for _ in range(2)]
        for number, (handle, skip, to, length) in enumerate(some):
            memory, sent = buffers[number % 2]
            sent.synchronize()
            os.preadv(handle, [memoryview(memory.numpy())[:length]], skip)
            with torch.cuda.stream(stream):
                there[to : to + length].copy_(memory[:length], non_blocking=True)
                sent.record(stream)
        stream.synchronize()

    middle = len(pieces) // 2
    helper = threading.Thread(target=send, args=(pieces[:middle],))
    helper.start()
    send(pieces[middle:])
    helper.join()
    for handle in {piece[0] for piece in pieces}:
        os.close(handle)


def torch_mapped(model, path):
    model.load_state_dict(torch.load(path, mmap=True, weights_only=True))


def torch_on_device(model, path):
    model.load_state_dict(torch.load(path, map_location="cuda", weights_only=True))


def file_to_device(model, path):
    from safetensors.torch import load_file

    for file in files_of(path):
        model.load_state_dict(load_file(file, device="cuda"), strict=False)


def file_through_cpu(model, path):
    from safetensors.torch import load_file

    for file in files_of(path):
        model.load_state_dict(load_file(file), strict=False)


def file_assigned(model, path):
    from safetensors.torch import load_file

    for file in files_of(path):
        model.load_state_dict(load_file(file, device="cuda"), strict=False, assign=True)


def file_parted(model, path):
    from peers import GROUPS
    from safetensors.torch import load_file

    for file in files_of(path):
        state = load_file(file, device="cuda")
        for name in list(state):
            for fused, parts in GROUPS:
                if f".{fused}." in name:
                    sizes = [model.get_parameter(name.replace(fused, part)).shape[0] for part in parts]
                    pieces = state.pop(name).split(sizes)
                    state |= {name.replace(fused, part): piece for part, piece in zip(parts, pieces, strict=True)}
        model.load_state_dict(state, strict=False)


def ours(model, path):
    import torchgraft

    torchgraft.load(model, path, device="cuda")


def ours_bare(model, path):
    import torchgraft

    torchgraft.load(model, path, device="cuda", undo="none")


LIMIT = {"limit": limit}
OURS = {"torchgraft.load": ours, "torchgraft.load(undo='none')": ours_bare}
TORCH = {
    "torch.load(mmap=True) + load_state_dict": torch_mapped,
    "torch.load(map_location) + load_state_dict": torch_on_device,
}
FILE = {"load_file(device) + load_state_dict": file_to_device, "load_file + load_state_dict": file_through_cpu}
if not have("safetensors"):
    FILE = {}
# (file, what is filled) -> way -> what is timed.
WAYS = {
    ("pt", "model"): LIMIT | TORCH | OURS,
    ("safetensors", "model"): LIMIT | FILE | OURS,
    ("safetensors", "meta"): LIMIT | ({"load_file(device), assigned": file_assigned} if FILE else {}) | OURS,
    ("fused.safetensors", "parted"): LIMIT | ({"load_file(device) + split + load_state_dict": file_parted} if FILE else {}) | OURS,
}  # fmt: skip


def prepared(case, way):
    """Return the model that is filled: on the device, or on meta."""
    if way == "limit":
        return None
    model = on_meta(decoder.decoder)
    return model if case[1] == "meta" else model.to_empty(device="cuda")


def sample(case, way, folder):
    """Return (wall seconds, growth of the device's memory in MiB) of one load."""
    model = prepared(case, way)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    WAYS[case][way](model, folder / f"decoder.{case[0]}")
    torch.cuda.synchronize()
    return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - before) / 2**20


def write(folder):
    """Write the decoder with random values in each form; return its size in MiB."""
    import torchgraft

    state = random_values(decoder.decoder)
    torch.save(state, folder / "decoder.pt")
    torchgraft.save(folder / "decoder.safetensors", state)
    torchgraft.save(folder / "decoder.fused.safetensors", random_values(lambda: decoder.decoder(joined=True)))
    return mib(state)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--mib", type=int, default=1200)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    decoder.MIB = asked.mib
    todo = [(case, way) for case, ways in WAYS.items() for way in ways]
    samples = {pair: [] for pair in todo}
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder))
        for number in range(asked.runs + 1):
            for case, way in reversed(todo) if number % 2 else todo:
                samples[case, way].append(sample(case, way, Path(folder)))
    rows = []
    for case, way in todo:
        mine, base = samples[case, way][1:], samples[case, "limit"][1:]
        rows.append(row(size, (case, way), mine, base, ("device_MiB",)))
        print(" | ".join(map(str, rows[-1].values())), flush=True)
    facts = {"torch": torch.__version__, "cores": os.cpu_count(), "device": torch.cuda.get_device_name(), "rows": rows}
    if asked.json:
        asked.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
