"""Time and peak memory of planning and of telling the plan, by number of tensors of the file: a curve for equal names, a
prefix, other names throughout, and a model of half the layers, by equal names and by others.

Seconds are the processor's, so that a busy machine doesn't count; imports count where planning is what needs them.

python bench/plan_time.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

# Names, and thousands of tensors.
WORK = [
    (names, thousands)
    for names in ("equal", "prefix", "renamed", "half", "renamed half")
    for thousands in (1, 3, 10, 30, 100)
]


def names(layers: int, experts: int, dialect: str):
    prefix = "model." if dialect == "prefix" else ""
    moe, parts = ("moe", ("w1", "w3", "w2")) if "renamed" in dialect else ("mlp", ("gate_proj", "up_proj", "down_proj"))
    for layer in range(layers):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}layers.{layer}.self_attn.{part}.weight", (64, 64)
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}layers.{layer}.{part}.weight", (64,)
        for expert in range(experts):
            for part, shape in zip(parts, ((128, 64), (128, 64), (64, 128)), strict=True):
                yield f"{prefix}layers.{layer}.{moe}.experts.{expert}.{part}.weight", shape


def measure(dialect: str, thousands: int) -> dict[str, object]:
    import resource

    from torchgraft.core.dtypes import DType
    from torchgraft.core.specs import Network, TensorSpec
    from torchgraft.planning import make_plan
    from torchgraft.request import make_request
    from torchgraft.surveying import target_from_specs

    class Specs:
        origin, format, metadata, warnings = "<specs>", "specs", {}, ()

        def __init__(self, specs):
            self.networks = (Network("", specs),)

    layers = 10 if thousands < 10 else 62
    experts = round((1000 * thousands / layers - 6) / 3)
    given, wanted = (
        {name: TensorSpec(name, shape, DType.F32) for name, shape in names(count, experts, d)}
        for d, count in ((dialect, layers), ("equal", layers // 2 if "half" in dialect else layers))
    )
    target = target_from_specs(wanted)
    start = time.process_time()
    plan = make_plan(Specs(given), target, make_request(on_doubt="take"))
    seconds = time.process_time() - start
    start = time.process_time()
    str(plan)
    telling = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"names": dialect, "tensors": len(given), "seconds": round(seconds, 3), "telling": round(telling, 3), "peak_MiB": peak,
            "placed": len(plan.copied)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one[0], int(asked.one[1]))))
        return
    rows = []
    for dialect, thousands in WORK:
        call = [sys.executable, __file__, "--one", dialect, str(thousands)]
        rows.append(json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
