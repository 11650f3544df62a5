"""A bar moves on stderr while long work goes on, where a terminal is there to show it, and nowhere else."""

import os
import pty
import subprocess
import sys

import pytest
import torch

import torchgraft as tg
from torchgraft.cli.group import progress


def test_nobody_hears_of_progress_without_a_terminal(capsys):
    with progress("converting a.pt") as tell:
        assert tell is None
    assert capsys.readouterr().err == ""


COMMANDS = {
    ("convert", "a.pt", "b.safetensors"): "4.0/4.0 MB",
    ("inspect", "a.pt", "--verify"): "4.0/4.0 MB",
    ("inspect", "a.pt", "--statistics"): "4.0/4.0 MB",
    ("diff", "a.pt", "a.pt", "--values"): "8.0/8.0 MB",
    ("load", "a.pt", "--model", "b.pt", "-o", "c.pt"): "4.0/4.0 MB",
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_terminal_shows_a_bar(tmp_path, command):
    for name in ("a.pt", "b.pt"):
        tg.save(tmp_path / name, {"w": torch.randn(1000, 1000)})
    ours, theirs = pty.openpty()
    call = [sys.executable, "-m", "torchgraft", *command]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(call, cwd=tmp_path, stderr=theirs, stdout=subprocess.PIPE, check=True, env=environment)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "a.pt" in shown
    assert COMMANDS[command] in shown
    assert "MB" not in done.stdout.decode().replace("4.00 MB", "")


def test_reading_tells_all_bytes(tmp_path):
    tg.save(tmp_path / "a.safetensors", {"w": torch.randn(1500, 1000), "v": torch.randn(3)})
    told = []
    assert tg.inspect(
        tmp_path / "a.safetensors", verify=True, progress=lambda *now: told.append(now)
    ).verification.passed
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (6_000_012, 6_000_012)
    assert len(told) == 3
