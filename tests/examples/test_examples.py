"""The examples run, in a short version."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_digits():
    command = [sys.executable, EXAMPLES / "digits.py", "--seeds", "3", "--epochs", "1"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # several wait for each other where other tests keep the cores
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
    assert "would load 38 of 56 tensors" in done.stdout
    assert "\nloaded 38 of 56 tensors: 68.8 % of the model's elements" in done.stdout
    assert "stem.{6,7}.{weight,bias} <- stem.{3,4}.{weight,bias}" in done.stdout
    assert len(re.findall(r"[+-][\d.e+]+ ± [\d.e+]+ against scratch", done.stdout)) == 2


def test_every_example_has_a_test():
    tested = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in tested for path in EXAMPLES.glob("*.py"))
