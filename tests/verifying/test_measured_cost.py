"""The figures of what verification costs are those that were measured, and within the bounds that are promised."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_shows_what_was_measured():
    found = json.loads((ROOT / "bench/results/verify_cost.json").read_text())
    page = (ROOT / "docs/how-to/verify.md").read_text()
    shown = re.search(r"plain forward passes: ([\d.]+) times their processor\ntime, and ([\d.]+) times", page)
    assert shown
    assert shown.groups() == (f"{found['time_ratio']:.2f}", f"{found['peak_ratio']:.2f}")
    assert found["time_ratio"] <= 4
    assert found["peak_ratio"] <= 1.3
