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


def test_the_hook_sees_what_it_must(tmp_path):
    """The same script over a few files, with a reader that would run payloads: it must be caught."""
    script = Path(__file__).parent / "watched.py"
    code = (
        f"import sys; sys.argv = ['x', {str(tmp_path)!r}]; sys.path.insert(0, {str(script.parent)!r})\n"
        "import watched, pickle\nwatched.CASES = watched.CASES[:3]\n"
        "watched.attempt = lambda path: pickle.loads(b'cposixpath\\nexists\\n(S\"/\"\\ntR.') and open('/etc/hostname').close()\n"
        "from pathlib import Path\nwatched.main(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout.splitlines()[-1])["found"]
    assert any("pickle.find_class" in line for line in found)
    assert any("open ('/etc/hostname'" in line for line in found)
