"""A bar moves on stderr while long work goes on, where a terminal is there to show it, and nowhere else."""

import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch

import torchgraft as tg
from torchgraft.cli.commands import cli
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a.pt", "b.pt"):
        tg.save(tmp_path / name, {"w": torch.randn(1000, 1000)})
    monkeypatch.chdir(tmp_path)
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_terminal_shows_a_bar(folder, monkeypatch, capsys, command):
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patched:
        shown = pool.submit(all_of, ours)
        with os.fdopen(theirs, "w") as terminal:
            patched.setattr(sys, "stderr", terminal)
            assert not cli.main(command, standalone_mode=False)
    assert "a.pt" in shown.result().decode()
    assert COMMANDS[command] in shown.result().decode()
    assert "MB" not in capsys.readouterr().out.replace("4.00 MB", "")


def test_a_program_in_a_terminal_shows_a_bar(folder):
    ours, theirs = pty.openpty()
    call = [sys.executable, "-m", "torchgraft", "convert", "a.pt", "b.safetensors"]
    with subprocess.Popen(call, stderr=theirs, stdout=subprocess.PIPE, text=True) as run:
        os.close(theirs)
        shown = all_of(ours).decode()
        said = run.stdout.read()
    assert run.returncode == 0
    assert "4.0/4.0 MB" in shown
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
