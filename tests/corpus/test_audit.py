"""Reading the whole corpus in one process leaves no trace: nothing is run, opened elsewhere, or changed."""

import json
import subprocess
import sys
from pathlib import Path


def test_nothing_is_run_or_opened_elsewhere_or_left_changed(tmp_path):
    script = Path(__file__).parent / "watched.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["cases"] > 250
    assert said["found"] == []
    assert any("pickle.find_class" in line for line in said["trial"])  # so that the hook sees what it must
    assert any(f"open ('{script}'" in line for line in said["trial"])
