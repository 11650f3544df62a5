"""A bar moves on stderr while long work goes on, where a terminal is there to show it, and nowhere else."""

import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest
import torch

import torchgraft as tg
from torchgraft.cli.output import progress


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
    with subprocess.Popen(call, cwd=tmp_path, stderr=theirs, stdout=subprocess.PIPE, env=environment, text=True) as run:
        os.close(theirs)
        shown = all_of(ours).decode()
        said = run.stdout.read()
    assert run.returncode == 0
    assert "a.pt" in shown
    assert COMMANDS[command] in shown
    assert "MB" not in said.replace("4.00 MB", "")


def all_of(terminal):
    """What a program shows until it ends: read meanwhile, since a terminal takes a few kilobytes ahead and no more."""
    out = b""
    with suppress(OSError):  # as the end of a terminal shows on Linux
        while part := os.read(terminal, 1 << 16):
            out += part
    os.close(terminal)
    return out


def test_reading_tells_all_bytes(tmp_path):
    tg.save(tmp_path / "a.safetensors", {"w": torch.randn(1500, 1000), "v": torch.randn(3)})
    told = []
    assert tg.inspect(
        tmp_path / "a.safetensors", verify=True, progress=lambda *now: told.append(now)
    ).verification.passed
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (6_000_012, 6_000_012)
    assert len(told) == 3
